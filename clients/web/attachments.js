/** What is attached to the prompt: one picture at most, one recording at most, as prompts take. */

import { h, urlOf } from "./dom.js";
import { readPicture } from "./pictures.js";

export class Attachments extends EventTarget {
  image = null;
  audio = null;
  #element = document.getElementById("attachments");
  #repaint;

  /** @param {(picture: Blob) => void} repaint */
  constructor(repaint) {
    super();
    this.#repaint = repaint;
  }

  /** @param {Blob} blob in a type that the server reads */
  put(blob) {
    if (blob.type.startsWith("image/")) this.image = blob;
    else this.audio = blob;
    this.#changed();
  }

  /** @param {Iterable<File>} files chosen, dropped or pasted */
  async read(files) {
    for (const file of files) {
      if (file.type.startsWith("audio/")) this.put(file);
      else this.put(await readPicture(file));
    }
  }

  clear() {
    this.image = this.audio = null;
    this.#changed();
  }

  get kinds() {
    return [...(this.audio ? ["audio"] : []), ...(this.image ? ["image"] : [])];
  }

  #changed() {
    const chips = [];
    const { image } = this;
    if (image) {
      const repaint = h("button", { type: "button", class: "repaint-it", onclick: () => this.#repaint(image) }, "Repaint");
      const picture = h("div", {}, h("img", { src: urlOf(image), alt: "Attached picture" }), repaint);
      chips.push(chip(picture, "picture", () => this.#drop("image")));
    }
    if (this.audio) chips.push(chip(h("audio", { src: urlOf(this.audio), controls: true }), "recording", () => this.#drop("audio")));
    this.#element.replaceChildren(...chips);
    this.dispatchEvent(new Event("change"));
  }

  #drop(kind) {
    this[kind] = null;
    this.#changed();
    document.getElementById("prompt").focus();
  }
}

function chip(media, name, drop) {
  return h("div", { class: "chip" }, media, h("button", { type: "button", class: "drop", "aria-label": `Remove the ${name}`, onclick: drop }, "×"));
}

/** Files dropped anywhere on the page, or pasted. @param {(files: File[]) => void} take */
export function onFiles(take) {
  let depth = 0;
  const show = (change) => {
    depth = Math.max(0, depth + change);
    document.body.classList.toggle("dropping", depth > 0);
  };
  addEventListener("dragenter", () => show(1));
  addEventListener("dragleave", () => show(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    show(-depth);
    take([...event.dataTransfer.files]);
  });
  addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) take([...event.clipboardData.files]);
  });
}
