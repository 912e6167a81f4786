import { UnmaskError, errorOf } from "./errors.js";
import { pcmFromBase64, pcmToBase64 } from "./media.js";

export const SAMPLE_RATE = 24_000; // the protocol's only rate for PCM

/**
 * A dialogue over /v1/realtime, the OpenAI Realtime protocol. Iterate over it for the server's events; those that bring
 * speech (response.output_audio.delta) have it as `samples`, a Float32Array at SAMPLE_RATE. Made by UnmaskClient.realtime.
 */
export class RealtimeSession {
  #socket;
  #events = [];
  #waiting = null; // wakes the iterator
  #closed = false;
  #problem = null;

  constructor(socket) {
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.#take(JSON.parse(data));
    socket.onerror = () => this.#end(new UnmaskError("the realtime session broke"));
    socket.onclose = ({ code, reason }) => this.#end(problemOfClose(code, reason));
  }

  static async open({ base, apiKey, WebSocket, model, instructions = "", output = "audio", turnDetection = true }) {
    const url = new URL(`${base.replace(/^http/, "ws")}/v1/realtime`);
    if (model) url.searchParams.set("model", model);
    // Browsers cannot set headers here.
    const protocols = apiKey ? ["realtime", `openai-insecure-api-key.${apiKey}`] : ["realtime"];
    const session = new RealtimeSession(new WebSocket(url.href, protocols));
    await session.#created();
    const turn_detection = turnDetection ? { type: "server_vad" } : null;
    const settings = { type: "realtime", instructions, output_modalities: [output], audio: { input: { turn_detection } } };
    session.send("session.update", { session: settings });
    return session;
  }

  /** Any event of the protocol. @param {string} type @param {object} [fields] */
  send(type, fields = {}) {
    this.#socket.send(JSON.stringify({ type, ...fields }));
  }

  /** The next piece from a microphone. @param {Float32Array | Int16Array} samples mono at SAMPLE_RATE */
  append(samples) {
    this.send("input_audio_buffer.append", { audio: pcmToBase64(samples) });
  }

  /** Ends a spoken turn and asks for the reply, where turn detection does not do so. */
  commit() {
    this.send("input_audio_buffer.commit");
    this.send("response.create");
  }

  /** A written turn. @param {string} text */
  say(text) {
    const content = [{ type: "input_text", text }];
    this.send("conversation.item.create", { item: { type: "message", role: "user", content } });
    this.send("response.create");
  }

  /** Tells the server how much of its speech was played before the user interrupted. @param {string} itemId @param {number} playedMs */
  truncate(itemId, playedMs) {
    this.send("conversation.item.truncate", {
      item_id: itemId,
      content_index: 0,
      audio_end_ms: Math.floor(playedMs),
    });
  }

  close() {
    this.#socket.close();
  }

  async *[Symbol.asyncIterator]() {
    while (true) {
      while (this.#events.length) yield this.#events.shift();
      if (this.#problem) throw this.#problem;
      if (this.#closed) return;
      await new Promise((resolve) => (this.#waiting = resolve));
    }
  }

  /** Waits for the first event, which stays in line. */
  async #created() {
    while (!this.#events.length && !this.#closed) await new Promise((resolve) => (this.#waiting = resolve));
    if (!this.#events.length) throw this.#problem ?? new UnmaskError("the server ended the session");
    if (this.#events[0].type === "error") throw errorOf(this.#events[0]);
  }

  #take(event) {
    const speech = event.type === "response.output_audio.delta";
    this.#events.push(speech ? { ...event, samples: pcmFromBase64(event.delta) } : event);
    this.#waiting?.();
  }

  #end(problem) {
    this.#problem ??= problem;
    this.#closed = true;
    this.#waiting?.();
  }
}

/** RFC 6455 has the codes. */
function problemOfClose(code, reason) {
  if (code === 1000 || code === 1005) return null;
  if (code === 1006) return new UnmaskError("the connection to the server was lost");
  return new UnmaskError(reason || `the server ended the session: ${code}`);
}
