import { UnmaskError, errorOfResponse } from "./errors.js";
import { readEvents, withBlobs } from "./events.js";
import { base64OfBlob, partOf } from "./media.js";
import { RealtimeSession } from "./realtime.js";
import { waitBeforeRetry } from "./retry.js";

/** @typedef {string | Blob} Part */

export class UnmaskClient {
  /**
   * `timeout`: milliseconds until the answer begins.
   * @param {{baseUrl?: string, apiKey?: string, timeout?: number, maxRetries?: number, WebSocket?: any}} [options]
   */
  constructor({ baseUrl = "", apiKey, timeout = 600_000, maxRetries = 2, WebSocket } = {}) {
    this.baseUrl = baseUrl.replace(/\/$/, "");
    this.apiKey = apiKey;
    this.timeout = timeout;
    this.maxRetries = maxRetries;
    this.WebSocket = WebSocket ?? globalThis.WebSocket;
  }

  /** The whole answer, media as Blobs. @param {Part | Part[] | null} input */
  async generate(input, options = {}) {
    const response = await this.#post(await bodyOf(input, options), options.signal);
    return withBlobs(await response.json());
  }

  /** The same, as it comes: an async iterator of events. Leaving the loop cancels the request. @param {Part | Part[] | null} input */
  async *stream(input, options = {}) {
    const body = { ...(await bodyOf(input, options)), stream: true };
    yield* readEvents(await this.#post(body, options.signal));
  }

  /** @param {Blob} audio */
  async transcribe(audio, options = {}) {
    return (await this.#first("text", audio, { ...options, output: ["text"] })).text;
  }

  /** @param {string} text */
  async speak(text, { format = "wav", voice = "default", ...options } = {}) {
    return (await this.#first("audio", text, { ...options, output: [{ type: "audio", format, voice }] })).blob;
  }

  /** From a description, written or spoken. @param {Part} prompt */
  async draw(prompt, { format = "png", ...options } = {}) {
    return (await this.#first("image", prompt, { ...options, output: [{ type: "image", format }] })).blob;
  }

  /** The answer to a question, written or spoken, with a picture or without. @param {Part} question */
  async ask(question, { image, ...options } = {}) {
    // A lone recording with text as the only output would be transcribed instead of answered.
    const output = typeof question === "string" || image ? ["text"] : ["text", "audio"];
    return (await this.#first("text", image ? [question, image] : question, { ...options, output })).text;
  }

  /** The answer to a dialogue. @param {{role: string, content: Part | Part[]}[]} messages */
  async chat(messages, options = {}) {
    return (await this.#first("text", null, { ...options, messages, output: ["text"] })).text;
  }

  /**
   * `target` with a part of it made anew: text with [MASK:n] holes, a picture and its `mask`, a recording and `spans`
   * (of seconds, or of the words of its `transcript`).
   * @param {Part} target @param {Part | Part[]} input what to make the whole from
   */
  async edit(target, input, { mask, spans, transcript, ...options } = {}) {
    const { type } = await partOf(target);
    const made = await this.#first(type, input, { ...options, output: [type], edits: [{ target, mask, spans, transcript }] });
    return type === "text" ? made.text : made.blob;
  }

  /** A spoken dialogue; resolves once the session is set up. */
  realtime(options = {}) {
    const base = this.baseUrl || globalThis.location.origin;
    return RealtimeSession.open({ ...options, base, apiKey: this.apiKey, WebSocket: this.WebSocket });
  }

  async #first(type, input, options) {
    const answer = await this.generate(input, options);
    const part = answer.output.find((part) => part.type === type);
    if (!part) throw new UnmaskError(`the answer has no ${type}`);
    return part;
  }

  /** A response with a good status. */
  async #post(body, signal) {
    for (let attempt = 0; ; attempt++) {
      let response, problem;
      try {
        response = await this.#fetch(body, signal);
        if (response.ok) return response;
        problem = await errorOfResponse(response);
      } catch (error) {
        signal?.throwIfAborted();
        if (error.name === "TimeoutError") {
          throw new UnmaskError(`no answer within ${this.timeout} ms`, { cause: error, code: "timeout" });
        }
        problem = new UnmaskError(`the server cannot be reached: ${error.message}`, { cause: error });
      }
      const wait = waitBeforeRetry(attempt, response);
      if (wait === null || attempt >= this.maxRetries) throw problem;
      await new Promise((resolve) => setTimeout(resolve, wait));
      signal?.throwIfAborted();
    }
  }

  async #fetch(body, signal) {
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(new DOMException("too late", "TimeoutError")), this.timeout);
    try {
      return await fetch(`${this.baseUrl}/v1/generate`, {
        method: "POST",
        headers: { "content-type": "application/json", ...(this.apiKey && { authorization: `Bearer ${this.apiKey}` }) },
        body: JSON.stringify(body),
        signal: signal ? AbortSignal.any([signal, late.signal]) : late.signal,
      });
    } finally {
      clearTimeout(timer);
    }
  }
}

/** The wire form. JSON leaves out what is undefined. */
async function bodyOf(input, { messages, edits, signal: _, ...options }) {
  const edit = edits && (await Promise.all(edits.map(wiredEdit)));
  const wired = messages?.map(async (message) => ({ ...message, content: await partsOf(message.content) }));
  return {
    ...(edit && { edit: edit.length === 1 ? edit[0] : edit }),
    ...options,
    input: input === null ? undefined : await partsOf(input),
    messages: wired && (await Promise.all(wired)),
  };
}

/** A target is a Part, or {type: "image" | "audio"} for one that is to be made whole. */
async function wiredEdit({ target, mask, ...rest }) {
  const isPart = typeof target === "string" || target instanceof Blob;
  return { target: isPart ? await partOf(target) : target, mask: mask && (await base64OfBlob(mask)), ...rest };
}

function partsOf(content) {
  return Promise.all((Array.isArray(content) ? content : [content]).map(partOf));
}
