/** The server-sent events of a streamed answer. */

import { UnmaskError, errorOf } from "./errors.js";
import { blobOf, pcmFromBase64 } from "./media.js";

const PREFIX = "data: ";

/** Events as the server sends them, media decoded: `samples` in audio.delta, `blob` in image.*. @param {Response} response */
export async function* readEvents(response) {
  const requestId = response.headers.get("x-request-id") ?? undefined;
  for await (const line of lines(response.body)) {
    if (!line.startsWith(PREFIX)) continue; // keep-alives and empty lines
    const text = line.slice(PREFIX.length);
    if (text === "[DONE]") return;
    const event = JSON.parse(text);
    if (event.error) throw errorOf(event, { requestId });
    yield decoded(event);
  }
  throw new UnmaskError("the stream broke off before its end", { requestId });
}

/** The answer of the server with its media as Blobs. @param {any} answer */
export function withBlobs(answer) {
  const output = answer.output.map(({ data, ...part }) =>
    data === undefined ? part : { ...part, blob: blobOf(data, part.type, part.format) },
  );
  return { ...answer, output };
}

function decoded({ audio, data, ...event }) {
  if (event.type === "audio.delta") return { ...event, samples: pcmFromBase64(audio) };
  if (event.type === "image.preview" || event.type === "image.done") {
    return { ...event, blob: blobOf(data, "image", event.format ?? formatOf(data)) };
  }
  return event.type === "generation.completed" ? withBlobs(event) : event;
}

/** By the first bytes, in base64. */
function formatOf(data) {
  if (data.startsWith("UklGR")) return "webp";
  return data.startsWith("/9j/") ? "jpeg" : "png";
}

/** @param {ReadableStream<Uint8Array>} stream */
async function* lines(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    while (true) {
      const { done, value } = await reader.read().catch(brokenOff);
      if (done) return;
      const pieces = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = pieces.pop();
      yield* pieces;
    }
  } finally {
    await reader.cancel().catch(() => {}); // leaving the loop cancels the request
  }
}

function brokenOff(error) {
  if (error.name === "AbortError" || error.name === "TimeoutError") throw error; // the caller's own signal
  throw new UnmaskError("the stream broke off before its end", { cause: error });
}
