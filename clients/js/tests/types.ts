/** What a caller in TypeScript may write, and may not; never run, only checked: `npm run types`. */

import { UnmaskClient, UnmaskError, SAMPLE_RATE, type Event, type Generation, type Word } from "../src/index.js";

const client = new UnmaskClient({ baseUrl: "http://127.0.0.1:8000", apiKey: "k", WebSocket });

export async function generate(picture: Blob, speech: Blob): Promise<Word[]> {
  const drawn: Blob = await client.draw("a red circle", { decoding: { seed: 7, steps: 8 }, format: "webp" });
  const answer: string = await client.ask("what?", { image: drawn });
  const answers: Generation = await client.generate(["what?", picture], {
    output: ["text", { type: "audio", format: "mp3" }],
    return: ["confidence", "word_timestamps"],
  });
  for (const part of answers.output) {
    if (part.type === "text") part.text.trim();
    else part.blob.size.toFixed();
  }
  const edited: Blob = await client.edit(speech, answer, { spans: [{ start: 0.2, end: 0.6, text: "green" }] });
  await client.edit(edited, "a green circle", { spans: [{ words: "red", text: "green" }], transcript: "a red circle" });
  await client.generate(null, { edits: [{ target: picture, mask: drawn }, { target: "a [MASK:1]" }, { target: { type: "audio" } }] });
  const filled: string = await client.edit("a [MASK:1] circle", picture);
  await client.chat([{ role: "user", content: [filled, picture] }]);
  return answers.words ?? [];
}

export async function stream(): Promise<number> {
  let seconds = 0;
  for await (const event of client.stream("hello", { output: ["audio"], return: ["word_timestamps"] })) {
    if (event.type === "audio.delta") seconds += event.samples.length / event.sample_rate;
    if (event.type === "audio.done") for (const word of event.words ?? []) seconds = Math.max(seconds, word.end);
    if (event.type === "tokens.commit") event.positions.length.toFixed();
    if (event.type === "generation.completed") event.output.length.toFixed();
  }
  return seconds;
}

export async function talk(samples: Float32Array): Promise<void> {
  const session = await client.realtime({ instructions: "Be brief.", turnDetection: false });
  session.append(samples.subarray(0, SAMPLE_RATE));
  session.commit();
  for await (const event of session) if (event.samples) session.truncate("item", 12);
}

export function isFull(error: unknown): boolean {
  return error instanceof UnmaskError && error.status === 503;
}

export function mistakes(event: Event): void {
  // @ts-expect-error
  void client.draw({});
  // @ts-expect-error: where is it?
  void client.edit(new Blob(), "a", { spans: [{ text: "green" }] });
  // @ts-expect-error
  void client.generate("a", { return: ["words"] });
  // @ts-expect-error: only where it is speech
  void event.samples;
}
