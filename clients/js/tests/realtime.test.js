import assert from "node:assert/strict";
import { test } from "node:test";

import { UnmaskClient, UnmaskError } from "../src/index.js";

/** Node 20 has none; this one is opened, driven and closed by the test. */
class FakeSocket {
  static last;
  sent = [];

  constructor(url, protocols) {
    Object.assign(this, { url, protocols });
    FakeSocket.last = this;
    setImmediate(() => this.receive({ type: "session.created" }));
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  receive(event) {
    this.onmessage({ data: JSON.stringify(event) });
  }

  close(code = 1000) {
    this.onclose({ code, reason: "" });
  }
}

function opened(options) {
  return new UnmaskClient({ baseUrl: "https://host/", apiKey: "k", WebSocket: FakeSocket }).realtime(options);
}

test("a spoken turn", async () => {
  const session = await opened({ model: "mini", instructions: "Be brief.", turnDetection: false });
  const socket = FakeSocket.last;
  assert.equal(socket.url, "wss://host/v1/realtime?model=mini");
  assert.deepEqual(socket.protocols, ["realtime", "openai-insecure-api-key.k"]);
  session.append(Float32Array.of(0, 1, -2));
  session.commit();
  session.say("hello");
  session.truncate("item_1", 12.7);
  assert.deepEqual(
    socket.sent.map((event) => event.type),
    [
      "session.update",
      "input_audio_buffer.append",
      "input_audio_buffer.commit",
      "response.create",
      "conversation.item.create",
      "response.create",
      "conversation.item.truncate",
    ],
  );
  assert.equal(socket.sent[0].session.audio.input.turn_detection, null);
  assert.deepEqual([...Buffer.from(socket.sent[1].audio, "base64")], [0, 0, 0xff, 0x7f, 0, 0x80]);
  assert.equal(socket.sent[6].audio_end_ms, 12);

  socket.receive({ type: "response.output_audio.delta", delta: "AAAAQA==" });
  setImmediate(() => {
    socket.receive({ type: "response.done" });
    session.close();
  });
  const events = [];
  for await (const event of session) events.push(event);
  assert.deepEqual(
    events.map((event) => event.type),
    ["session.created", "response.output_audio.delta", "response.done"],
  );
  assert.deepEqual([...events[1].samples], [0, 0.5]);
});

test("a session that is cut off rejects", async () => {
  const session = await opened();
  FakeSocket.last.close(1012);
  await assert.rejects(async () => {
    for await (const _ of session);
  }, UnmaskError);
  const lost = await opened();
  FakeSocket.last.close(1006);
  await assert.rejects(async () => {
    for await (const _ of lost);
  }, { message: "the connection to the server was lost" });
});

test("a refused session rejects", async () => {
  const session = opened();
  FakeSocket.last.receive({ type: "error", error: { message: "wrong key", code: "invalid_api_key" } });
  await assert.rejects(session, { message: "wrong key", code: "invalid_api_key" });
});
