/** Where a picture is to be drawn anew, painted by hand or by keys, and what it then shows. */

import { colour, h, urlOf } from "./dom.js";
import { decoding } from "./options.js";
import { pngOf } from "./pictures.js";
import { repainting } from "./request.js";

const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** @param {Blob} target @param {string} words what it shows now @returns {Promise<import("./request.js").Request | null>} */
export async function repaintDialog(target, words) {
  const bitmap = await createImageBitmap(target);
  const brush = new Brush(bitmap.width, bitmap.height);
  const size = h("input", { type: "range", min: 4, max: 50, value: 18 });
  size.addEventListener("input", () => (brush.share = size.valueAsNumber / 100));
  const prompt = h("input", { type: "text", value: words, required: true, id: "repaint-prompt" });
  const problem = h("p", { class: "hint", role: "status" });
  const form = h(
    "form",
    { method: "dialog" },
    h("h2", {}, "Paint over what is to change"),
    h("div", { class: "easel" }, h("img", { src: urlOf(target), alt: "The picture" }), brush.canvas),
    h("div", { class: "fields" }, h("label", {}, "Brush ", size), h("button", { type: "button", onclick: () => brush.clear() }, "Clear")),
    h("label", { class: "wide" }, "The whole picture then shows ", prompt),
    h("p", { class: "quiet" }, "Every other pixel stays as it is. Keys: arrows move the brush, Space paints."),
    problem,
    h("div", { class: "ends" }, h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"), h("button", { class: "primary", value: "paint" }, "Repaint")),
  );
  const dialog = h("dialog", { class: "repaint", "aria-label": "Repaint" }, form);
  form.addEventListener("submit", (event) => {
    if (event.submitter?.value !== "paint" || !brush.isClean) return;
    event.preventDefault();
    problem.textContent = "Nothing is painted over yet.";
  });
  document.body.append(dialog);
  dialog.showModal();
  brush.canvas.focus();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  dialog.remove();
  return dialog.returnValue === "paint" ? repainting(target, await brush.mask(), prompt.value, decoding()) : null;
}

/** A canvas over the picture in the picture's own pixels. Models see its centre square, so painting stays within. */
class Brush {
  canvas;
  share = 0.18; // of the square's side
  isClean = true;
  #context;
  #square;
  #cursor;
  #last = null;

  constructor(width, height) {
    this.canvas = h("canvas", { width, height, tabindex: "0", role: "application", "aria-label": "Where to repaint" });
    this.#context = this.canvas.getContext("2d");
    const side = Math.min(width, height);
    this.#square = { left: Math.floor((width - side) / 2), top: Math.floor((height - side) / 2), side };
    this.#context.rect(this.#square.left, this.#square.top, side, side);
    this.#context.clip();
    this.#cursor = { x: width / 2, y: height / 2 };
    this.#context.lineCap = this.#context.lineJoin = "round";
    this.canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    this.canvas.addEventListener("pointermove", (event) => this.#last && this.#paint(this.#at(event)));
    this.canvas.addEventListener("pointerup", () => (this.#last = null));
    this.canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  clear() {
    this.#context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.isClean = true;
  }

  /** Transparent where it is painted. */
  mask() {
    const mask = h("canvas", { width: this.canvas.width, height: this.canvas.height });
    const context = mask.getContext("2d");
    context.fillRect(0, 0, mask.width, mask.height);
    const painted = this.#context.getImageData(0, 0, mask.width, mask.height);
    const pixels = context.getImageData(0, 0, mask.width, mask.height);
    for (let at = 3; at < painted.data.length; at += 4) pixels.data[at] = painted.data[at] ? 0 : 255;
    context.putImageData(pixels, 0, 0);
    return pngOf(mask);
  }

  #begin(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.#last = this.#at(event);
    this.#paint(this.#last);
  }

  #at({ clientX, clientY }) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    return { x: ((clientX - left) * this.canvas.width) / width, y: ((clientY - top) * this.canvas.height) / height };
  }

  #paint(point) {
    const from = this.#last ?? point;
    this.#context.strokeStyle = colour("accent");
    this.#context.lineWidth = this.share * this.#square.side;
    this.#context.beginPath();
    this.#context.moveTo(from.x, from.y);
    this.#context.lineTo(point.x + 0.01, point.y); // a line of no length would not be drawn
    this.#context.stroke();
    if (this.#last) this.#last = point;
    this.isClean = false;
  }

  #key(event) {
    const move = KEYS[event.key];
    if (!move && event.key !== " ") return;
    event.preventDefault();
    const { left, top, side } = this.#square;
    const [dx, dy] = move ?? [0, 0];
    this.#cursor.x = Math.max(left, Math.min(left + side, this.#cursor.x + (dx * side) / 16));
    this.#cursor.y = Math.max(top, Math.min(top + side, this.#cursor.y + (dy * side) / 16));
    if (event.key === " ") this.#paint(this.#cursor);
    const cursor = [this.#cursor.x / this.canvas.width, this.#cursor.y / this.canvas.height];
    this.canvas.parentElement.style.setProperty("--x", `${100 * cursor[0]}%`);
    this.canvas.parentElement.style.setProperty("--y", `${100 * cursor[1]}%`);
    this.canvas.parentElement.classList.add("by-keys");
  }
}
