/** Shows frames no faster than eyes can follow. Small models unmask a picture in a third of a second. */

import { isStill } from "./dom.js";

const WHOLE_MS = 2400; // what all steps together take, where the server is faster
const FRAME_MS = { least: 16, most: 90 };

export class Pace {
  #show;
  #shown = -1;
  #known = -1;
  #timer = null;
  #onEnd = null;

  /** @param {(index: number) => void} show */
  constructor(show) {
    this.#show = show;
  }

  /** Frames up to this index exist, of so many in all. */
  extend(index, planned) {
    this.#known = index;
    this.#timer ??= setTimeout(() => this.#next(planned), 0);
  }

  /** From the first frame on. */
  replay(numFrames) {
    this.stop();
    this.#shown = -1;
    this.#show(-1);
    this.extend(numFrames - 1, numFrames);
  }

  /** Resolves once every known frame has been shown. */
  async caughtUp() {
    if (this.#timer !== null) await new Promise((resolve) => (this.#onEnd = resolve));
  }

  /** The user has taken the dial. */
  stop() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#onEnd?.();
    this.#onEnd = null;
  }

  #next(planned) {
    this.#shown = isStill() || document.hidden ? this.#known : Math.min(this.#shown + 1, this.#known);
    this.#show(this.#shown);
    if (this.#shown >= this.#known) return this.stop();
    const wait = Math.min(FRAME_MS.most, Math.max(FRAME_MS.least, WHOLE_MS / planned));
    this.#timer = setTimeout(() => this.#next(planned), wait);
  }
}
