/** Speech on a timeline: a bar a token while it is made, then its wave, to be played and selected from. */

import { colour, fitted, h } from "./dom.js";
import { peaksOf } from "./wav.js";

const BAR = 3; // pixels, of the wave
const GAP = 1.5;

export class SpeechView extends EventTarget {
  element;
  selection = null; // {start, end} in seconds
  samples = null; // of the whole, once it is there
  rate = 0; // Hz
  #unmasking;
  #canvas = h("canvas", { role: "img", "aria-label": "Timeline of the speech" });
  #index = -1;
  #playedS = 0;

  constructor(unmasking) {
    super();
    this.#unmasking = unmasking;
    this.element = h("div", { class: "speech" }, this.#canvas);
    new ResizeObserver(() => this.#draw()).observe(this.element);
    this.#canvas.addEventListener("pointerdown", (event) => this.#select(event));
  }

  show(index) {
    this.#index = index;
    this.#draw();
  }

  /** @param {Float32Array} samples @param {number} rate */
  finish(samples, rate) {
    this.samples = samples;
    this.rate = rate;
    this.show(this.#unmasking.frames.length - 1);
  }

  /** Seconds of the whole; 0 until it is there. */
  get duration() {
    return this.samples ? this.samples.length / this.rate : 0;
  }

  /** @param {number} seconds how far it has been played */
  played(seconds) {
    this.#playedS = seconds;
    this.#draw();
  }

  /** @param {{start: number, end: number} | null} selection */
  mark(selection) {
    this.selection = selection;
    this.#draw();
  }

  #select(down) {
    if (!this.duration) return;
    const at = ({ clientX }) => {
      const { left, width } = this.#canvas.getBoundingClientRect();
      return (Math.max(0, Math.min(1, (clientX - left) / width)) * this.duration);
    };
    const first = at(down);
    const move = (event) => {
      const [start, end] = [first, at(event)].sort((a, b) => a - b);
      this.mark(end - start > 0.05 ? { start, end } : null);
    };
    const up = (event) => {
      move(event);
      this.#canvas.removeEventListener("pointermove", move);
      this.dispatchEvent(this.selection ? new Event("select") : new CustomEvent("seek", { detail: first }));
    };
    this.#canvas.setPointerCapture(down.pointerId);
    this.#canvas.addEventListener("pointermove", move);
    this.#canvas.addEventListener("pointerup", up, { once: true });
  }

  #draw() {
    const size = fitted(this.#canvas);
    const isLast = this.samples && this.#index >= this.#unmasking.frames.length - 1;
    if (isLast) this.#drawWave(size);
    else this.#drawTokens(size);
  }

  /** Those of speech say nothing as text; where text comes first, a given token begins the speech. */
  #drawTokens({ context, width, height }) {
    const cells = this.#unmasking.at(this.#index);
    const start = cells.findIndex((cell) => cell.state === "given");
    const shown = start > 0 ? cells.slice(start + 1) : cells;
    const step = width / Math.max(1, shown.length);
    const bar = Math.max(1, Math.min(10, step * 0.62));
    const [ink, line, accent] = ["ink", "line", "accent"].map(colour);
    shown.forEach(({ state, text, sureness, isNew }, at) => {
      const isSilent = state === "masked" || text !== null;
      const tall = isSilent ? bar : Math.max(bar, height * (0.2 + 0.6 * sureness));
      context.globalAlpha = state === "guess" && !isSilent ? 0.2 + 0.5 * sureness : 1;
      context.fillStyle = isSilent ? line : isNew || state === "guess" ? accent : ink;
      context.beginPath();
      context.roundRect(at * step + (step - bar) / 2, (height - tall) / 2, bar, tall, bar / 2);
      context.fill();
    });
    context.globalAlpha = 1;
  }

  #drawWave({ context, width, height }) {
    const count = Math.max(1, Math.floor(width / (BAR + GAP)));
    const peaks = peaksOf(this.samples, count);
    const loudest = Math.max(0.05, ...peaks);
    const [ink, accent, tint] = ["ink", "accent", "tint"].map(colour);
    if (this.selection) {
      const [from, to] = [this.selection.start, this.selection.end].map((s) => (s / this.duration) * width);
      context.fillStyle = tint;
      context.fillRect(from, 0, to - from, height);
    }
    const heard = (this.#playedS / this.duration) * count;
    peaks.forEach((peak, at) => {
      const tall = Math.max(BAR, (peak / loudest) * height * 0.9);
      context.fillStyle = at < heard ? accent : ink;
      context.beginPath();
      context.roundRect(at * (BAR + GAP), (height - tall) / 2, BAR, tall, BAR / 2);
      context.fill();
    });
  }
}
