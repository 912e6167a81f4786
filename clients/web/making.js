/** The answer on the page while it is made: its views, their dial of steps, and the stream that feeds them. */

import { h } from "./dom.js";
import { Pace } from "./pace.js";
import { PictureView } from "./picture-view.js";
import { aroundHoles, streamOptions } from "./request.js";
import { SpeechView } from "./speech-view.js";
import { Unmasking } from "./unmasking.js";
import { WordsView } from "./words-view.js";

export class Making {
  element;
  #request;
  #player;
  #unmasking = new Unmasking();
  #views = {};
  #samples = [];
  #rate = 0;
  #pace = new Pace((index) => this.#show(index));
  #dial = h("input", { type: "range", min: 0, value: 0, max: 0, "aria-label": "Step of the unmasking" });
  #count = h("output", {}, "");
  #replay = h("button", { type: "button", hidden: true }, "Replay");

  constructor(request, player) {
    this.#request = request;
    this.#player = player;
    for (const kind of request.output) this.#views[kind] = this.#viewOf(kind);
    this.#dial.addEventListener("input", () => {
      this.#pace.stop();
      this.#show(this.#dial.valueAsNumber - 1);
    });
    this.#replay.addEventListener("click", () => this.#pace.replay(this.#unmasking.frames.length));
    const steps = h("div", { class: "steps" }, this.#replay, this.#dial, this.#count);
    this.element = h("div", { class: "making busy" }, ...Object.values(this.#views).map((view) => view.element), steps);
    this.#show(-1);
  }

  /** @returns {SpeechView} */
  get speech() {
    return this.#views.audio;
  }

  /** -> the whole answer, once it has been shown. @param {(text: string) => void} say how it goes */
  async run(client, signal, say) {
    const options = { ...(await streamOptions(this.#request)), signal };
    let answer = null;
    for await (const event of client.stream(this.#request.input, options)) {
      this.#unmasking.take(event);
      if (event.type === "generation.queued") say(`${event.position} before you`);
      if (event.type === "generation.step") say(`Step ${event.step} of ${event.steps}`);
      if (event.type === "tokens.guess") this.#pace.extend(this.#unmasking.frames.length - 1, this.#unmasking.steps);
      if (event.type === "audio.delta") this.#heard(event);
      if (event.type === "generation.completed") answer = event;
    }
    await this.#pace.caughtUp();
    this.#finish(answer);
    return answer;
  }

  abandon() {
    this.#pace.stop();
    this.element.classList.remove("busy");
  }

  #viewOf(kind) {
    const { edit } = this.#request;
    if (kind === "image") return new PictureView(this.#unmasking, edit?.target);
    if (kind === "audio") return new SpeechView(this.#unmasking);
    return new WordsView(this.#unmasking, edit ? aroundHoles(edit.target) : null);
  }

  #heard({ samples, sample_rate }) {
    this.#samples.push(samples);
    this.#rate = sample_rate;
    this.#player.add(samples, sample_rate);
  }

  #finish({ output }) {
    this.element.classList.remove("busy");
    this.#replay.hidden = false;
    for (const part of output) {
      if (part.type === "text") this.#views.text.finish(part.text);
      if (part.type === "image") this.#views.image.finish(part.blob, this.#request.shown.text || "A drawing");
      if (part.type === "audio") this.#views.audio.finish(joined(this.#samples), this.#rate);
    }
    this.#show(this.#unmasking.frames.length - 1);
  }

  #show(index) {
    const { frames, steps, total } = this.#unmasking;
    for (const view of Object.values(this.#views)) view.show(index);
    this.#dial.max = this.#replay.hidden ? steps : frames.length; // some steps may come as one
    this.#dial.value = index + 1;
    const frame = frames[index];
    this.#count.value = frame ? `step ${frame.step} · ${frame.committed} of ${total} tokens` : "all masked";
    this.#dial.setAttribute("aria-valuetext", this.#count.value);
  }
}

/** @param {Float32Array[]} pieces */
function joined(pieces) {
  const whole = new Float32Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}
