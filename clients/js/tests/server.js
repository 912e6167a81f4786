/** A server that keeps what it is sent and answers with recorded events. */

import { once } from "node:events";
import { createServer } from "node:http";

export const PNG = "iVBORw0KGgo=";
const PCM = Buffer.from(Int16Array.of(0, 16384, -32768).buffer).toString("base64");

const SLOW_MS = 10_000;

const PARTS = {
  text: { type: "text", text: "a red circle", truncated: false },
  image: { type: "image", format: "png", width: 1, height: 1, data: PNG },
  audio: { type: "audio", format: "mp3", sample_rate: 22050, duration_s: 0.1, transcript: "a red circle", data: PCM },
};

const EVENTS = [
  { type: "generation.created", id: "gen_1" },
  { type: "generation.step", step: 1, steps: 2, committed: 1, total: 3 },
  { type: "text.delta", text: "a red ürcle" },
  { type: "audio.delta", audio: PCM, format: "pcm", sample_rate: 22050 },
  { type: "image.preview", step: 1, data: PNG },
];

function answerTo(body) {
  const output = (body.output ?? ["text"]).map((item) => PARTS[item.type ?? item]);
  return { id: "gen_1", status: "completed", output };
}

function stream(response, body) {
  const lines = EVENTS.map((event, sequence) => `data: ${JSON.stringify({ sequence, ...event })}\n\n`);
  if (body.input?.[0].text === "crash") lines.push('data: {"error": {"message": "it broke", "code": "oops"}}\n\n');
  lines.push(`data: ${JSON.stringify({ type: "generation.completed", ...answerTo(body) })}\n\n`);
  if (body.input?.[0].text !== "cut") lines.push("data: [DONE]\n\n");
  if (body.input?.[0].text === "reset") return response.writeHead(200).write(lines[0], () => response.destroy());
  const bytes = Buffer.from(`: keep-alive\n\n${lines.join("")}`);
  response.writeHead(200, { "content-type": "text/event-stream", "x-request-id": "req_1" });
  for (let start = 0; start < bytes.length; start += 7) response.write(bytes.subarray(start, start + 7)); // amid characters
  response.end();
}

/** `refusals` ({status, headers}) are answered first, one a request. */
export async function startServer() {
  const seen = { bodies: [], headers: [], refusals: [] };
  const server = createServer(async (request, response) => {
    let text = "";
    for await (const piece of request) text += piece;
    const body = JSON.parse(text);
    seen.bodies.push(body);
    seen.headers.push(request.headers);
    const refusal = seen.refusals.shift();
    if (refusal) {
      response.writeHead(refusal.status, { "x-request-id": "req_9", ...refusal.headers });
      response.end(JSON.stringify({ error: { message: "no", code: "busy", param: null } }));
    } else if (body.input?.[0].text === "slow") {
      setTimeout(() => response.end("{}"), SLOW_MS).unref();
    } else if (body.stream) {
      stream(response, body);
    } else {
      response.writeHead(200, { "content-type": "application/json" });
      response.end(JSON.stringify(answerTo(body)));
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const stop = () => {
    server.close();
    server.closeAllConnections();
  };
  return { ...seen, url: `http://127.0.0.1:${server.address().port}`, stop };
}
