import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";

import { UnmaskClient, UnmaskError } from "../src/index.js";
import { PNG, startServer } from "./server.js";

const HASTE_MS = 300; // far less than a slow answer takes, and enough for a busy machine to send the question

let server, client;
before(async () => (server = await startServer()));
after(() => server.stop());
beforeEach(() => {
  for (const kept of [server.bodies, server.headers, server.refusals]) kept.length = 0;
  client = new UnmaskClient({ baseUrl: server.url, apiKey: "secret" });
});

const picture = new Blob([Buffer.from(PNG, "base64")], { type: "image/png" });
const recording = new Blob([new Uint8Array(4)], { type: "audio/wav" });

async function collected(iterator) {
  const events = [];
  for await (const event of iterator) events.push(event);
  return events;
}

test("a request is what the API describes", async () => {
  const answer = await client.generate(["what?", picture], {
    output: ["text", "audio"],
    return: ["timings"],
    decoding: { seed: 3 },
  });
  assert.equal(server.headers[0].authorization, "Bearer secret");
  assert.deepEqual(server.bodies[0], {
    input: [
      { type: "text", text: "what?" },
      { type: "image", data: PNG },
    ],
    output: ["text", "audio"],
    return: ["timings"],
    decoding: { seed: 3 },
  });
  assert.equal(answer.output[0].text, "a red circle");
  assert.equal(answer.output[1].blob.type, "audio/mpeg");
  assert.equal(answer.output[1].data, undefined);
});

test("the short ways", async () => {
  assert.equal((await client.draw("a red circle")).type, "image/png");
  assert.equal((await client.speak("hello", { format: "mp3" })).type, "audio/mpeg");
  assert.equal(await client.transcribe(recording), "a red circle");
  assert.equal(await client.ask("what?", { image: picture }), "a red circle");
  assert.equal(await client.ask(recording), "a red circle");
  assert.equal(await client.chat([{ role: "user", content: "hello" }]), "a red circle");
  assert.deepEqual(server.bodies[1].output, [{ type: "audio", format: "mp3", voice: "default" }]);
  assert.deepEqual(server.bodies[4].output, ["text", "audio"]); // answered, not transcribed
  assert.deepEqual(server.bodies[5].messages, [{ role: "user", content: [{ type: "text", text: "hello" }] }]);
  await assert.rejects(client.transcribe(new Blob(["x"])), /must say what it is/);
});

test("edits carry their target and what may change", async () => {
  const spans = [{ start: 0.1, end: 0.2, text: "blue" }];
  assert.equal((await client.edit(picture, "green", { mask: picture })).type, "image/png");
  assert.equal((await client.edit(recording, "a blue circle", { spans })).type, "audio/mpeg");
  assert.equal(await client.edit("a [MASK:1] circle", "what?"), "a red circle");
  await client.edit(recording, "a blue circle", { spans: [{ words: "red", text: "blue" }], transcript: "a red circle" });
  assert.deepEqual(server.bodies[0].edit, { target: { type: "image", data: PNG }, mask: PNG });
  assert.deepEqual(server.bodies[1].edit.spans, spans);
  assert.deepEqual(server.bodies[2], {
    input: [{ type: "text", text: "what?" }],
    output: ["text"],
    edit: { target: { type: "text", text: "a [MASK:1] circle" } },
  });
  assert.equal(server.bodies[3].edit.transcript, "a red circle");
  assert.deepEqual(server.bodies[3].edit.spans, [{ words: "red", text: "blue" }]);
});

test("what belongs together is one request", async () => {
  const edits = [{ target: picture, mask: picture }, { target: "a [MASK:1]" }, { target: { type: "audio" } }];
  await client.generate(null, { edits });
  assert.deepEqual(server.bodies[0], {
    edit: [
      { target: { type: "image", data: PNG }, mask: PNG },
      { target: { type: "text", text: "a [MASK:1]" } },
      { target: { type: "audio" } },
    ],
  });
});

test("a stream is events with their media decoded, and ends with the whole answer", async () => {
  const events = await collected(client.stream("hello", { output: ["image"], preview: { every_steps: 1 } }));
  assert.equal(server.bodies[0].stream, true);
  assert.deepEqual(
    events.map((event) => event.type),
    ["generation.created", "generation.step", "text.delta", "audio.delta", "image.preview", "generation.completed"],
  );
  assert.equal(events[2].text, "a red ürcle");
  assert.deepEqual([...events[3].samples], [0, 0.5, -1]);
  assert.equal(events[4].blob.type, "image/png");
  assert.equal(events[5].output[0].blob.size, 8);
});

test("a stream that fails or breaks off rejects", async () => {
  await assert.rejects(collected(client.stream("crash")), { message: "it broke", code: "oops", requestId: "req_1" });
  await assert.rejects(collected(client.stream("cut")), /broke off/);
  await assert.rejects(collected(client.stream("reset")), UnmaskError);
  const signal = AbortSignal.timeout(HASTE_MS);
  await assert.rejects(collected(client.stream("slow", { signal })), { name: "TimeoutError" });
});

test("a loop may be left", async () => {
  for await (const event of client.stream("hello")) {
    assert.equal(event.type, "generation.created");
    break;
  }
});

for (const [refusals, tries] of [
  [[{ status: 503, headers: { "retry-after": "0.01" } }, { status: 429, headers: { "retry-after": "0.01" } }], 3],
  [[{ status: 400 }], 1],
  [[{ status: 503, headers: { "x-should-retry": "false" } }], 1],
  [[{ status: 400, headers: { "x-should-retry": "true", "retry-after": "0.01" } }], 2],
  [[{ status: 503, headers: { "retry-after": "3600" } }], 1],
]) {
  test(`${JSON.stringify(refusals)} takes ${tries} tries`, async () => {
    server.refusals.push(...refusals);
    const error = await client.draw("x").then(
      () => null,
      (error) => error,
    );
    assert.equal(server.bodies.length, tries);
    if (tries > refusals.length) return assert.equal(error, null);
    assert.ok(error instanceof UnmaskError);
    assert.deepEqual([error.status, error.code, error.requestId], [refusals[0].status, "busy", "req_9"]);
  });
}

test("no server, no time, no more interest", async () => {
  const away = new UnmaskClient({ baseUrl: "http://127.0.0.1:9", maxRetries: 0 });
  await assert.rejects(away.draw("x"), /cannot be reached/);
  const hasty = new UnmaskClient({ baseUrl: server.url, timeout: HASTE_MS });
  await assert.rejects(hasty.draw("slow"), { name: "UnmaskError", code: "timeout" });
  assert.equal(server.bodies.length, 1); // it may still be at work on it
  await assert.rejects(client.draw("slow", { signal: AbortSignal.timeout(HASTE_MS) }), { name: "TimeoutError" });
});
