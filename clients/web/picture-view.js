/** A picture sharpening: the preview under a grid, clear where it is committed, veiled where it is guessed. */

import { colour, fitted, h, urlOf } from "./dom.js";

export class PictureView {
  element;
  #unmasking;
  #target;
  #final = null;
  #index = -1;
  #image = h("img", { alt: "The picture so far", hidden: true });
  #veil = h("canvas", { class: "veil", "aria-hidden": "true" });

  /** @param {Blob | null} target what is repainted, if anything is */
  constructor(unmasking, target = null) {
    this.#unmasking = unmasking;
    this.#target = target;
    this.element = h("div", { class: "picture" }, this.#image, this.#veil);
    new ResizeObserver(() => this.show(this.#index)).observe(this.element);
  }

  show(index) {
    this.#index = index;
    const isLast = this.#final !== null && index === this.#unmasking.frames.length - 1;
    const blob = isLast ? this.#final : (this.#unmasking.previewAt(index) ?? this.#target);
    this.#image.hidden = !blob;
    if (blob && this.#image.src !== urlOf(blob)) this.#image.src = urlOf(blob);
    this.#drawVeil(isLast ? [] : this.#unmasking.at(index));
  }

  /** @param {Blob} blob @param {string} description */
  finish(blob, description) {
    this.#final = blob;
    this.#image.alt = description;
    this.show(this.#unmasking.frames.length - 1);
  }

  /** The codes of a picture begin behind one token of frame, and a shorter row than that follows them. */
  #drawVeil(cells) {
    const { context, width } = fitted(this.#veil);
    const grid = Math.floor(Math.sqrt(cells.length));
    const side = width / grid;
    const patches = cells.slice(1, 1 + grid * grid);
    const [paper, line, accent] = ["mask", "line", "accent"].map(colour);
    const later = []; // outlines lie above their neighbours
    patches.forEach(({ state, sureness, isNew }, at) => {
      const [left, top] = [(at % grid) * side, Math.floor(at / grid) * side];
      if (state === "masked" || state === "guess") {
        context.globalAlpha = state === "masked" ? 1 : 0.3 + 0.6 * (1 - sureness);
        context.fillStyle = paper;
        context.fillRect(left, top, side, side);
        context.globalAlpha = 1;
        hatch(context, left, top, side, line);
      } else if (isNew) later.push([left, top]);
    });
    context.strokeStyle = accent;
    context.lineWidth = 2;
    for (const [left, top] of later) context.strokeRect(left + 1, top + 1, side - 2, side - 2);
  }
}

function hatch(context, left, top, side, line) {
  context.save();
  context.beginPath();
  context.rect(left, top, side, side);
  context.clip();
  context.strokeStyle = line;
  context.lineWidth = 0.5;
  context.strokeRect(left, top, side, side);
  context.beginPath();
  for (let offset = -side; offset < side; offset += Math.max(4, side / 5)) {
    context.moveTo(left + offset, top + side);
    context.lineTo(left + offset + side, top);
  }
  context.stroke();
  context.restore();
}
