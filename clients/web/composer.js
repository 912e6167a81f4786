/** The prompt: text, what is attached, and what is to be made of them. */

import { Attachments, onFiles } from "./attachments.js";
import { h } from "./dom.js";
import { levelOf, Recorder } from "./microphone.js";
import { decoding } from "./options.js";
import { takePhoto } from "./pictures.js";
import { repaintDialog } from "./repaint.js";
import { asking, filling } from "./request.js";
import { HOLE, refusal, TASKS, tasksFor } from "./tasks.js";

const byId = (id) => document.getElementById(id);

export class Composer {
  #attachments = new Attachments((picture) => this.#kindly(() => this.#repaint(picture)));
  #offered = [];
  #task = null; // the one chosen
  #liked = new Map(); // kinds of input -> the task chosen for them last
  #send;
  #recorder = null;

  /** @param {(request: import("./request.js").Request) => void} send */
  constructor(send) {
    this.#send = send;
    const prompt = byId("prompt");
    prompt.addEventListener("input", () => this.#update());
    prompt.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      byId("composer").requestSubmit();
    });
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.#attachments.addEventListener("change", () => this.#update());
    byId("add-picture").addEventListener("click", () => byId("file").click());
    byId("file").addEventListener("change", () => this.#kindly(() => this.#attachments.read(byId("file").files)));
    byId("add-photo").addEventListener("click", () => this.#kindly(() => this.#photo()));
    byId("record").addEventListener("click", () => this.#kindly(() => this.#record()));
    byId("add-hole").addEventListener("click", () => this.#hole());
    onFiles((files) => this.#kindly(() => this.#attachments.read(files)));
    this.#update();
  }

  /** @param {string[]} tasks of the model */
  offer(tasks) {
    this.#offered = Object.keys(TASKS).filter((name) => tasks.includes(name));
    this.#update();
  }

  /** @param {Blob} blob */
  attach(blob) {
    this.#attachments.put(blob);
    byId("prompt").focus();
  }

  /** @param {string} text */
  write(text) {
    byId("prompt").value = text;
    byId("prompt").focus();
    this.#update();
  }

  /** @param {string} text */
  hint(text) {
    byId("hint").textContent = text;
  }

  get #given() {
    const { image, audio } = this.#attachments;
    return { text: byId("prompt").value.trim(), image, audio };
  }

  #update() {
    const { text } = this.#given;
    const hasHoles = text.search(HOLE) >= 0;
    const kinds = [...this.#attachments.kinds, ...(text ? ["text"] : [])];
    const asked = kinds.length ? kinds : ["text"];
    const tasks = hasHoles ? [] : tasksFor(asked, this.#offered);
    this.#task = tasks.includes(this.#liked.get(asked.join())) ? this.#liked.get(asked.join()) : (tasks[0] ?? null);
    const choices = tasks.map((name) => this.#choice(name, () => this.#liked.set(asked.join(), name)));
    byId("tasks").replaceChildren(byId("tasks").firstElementChild, ...(hasHoles ? [h("span", {}, "Fill in")] : choices));
    this.hint(this.#offered.length && !tasks.length && !hasHoles ? refusal(asked, this.#offered) : "");
    byId("send").disabled = !kinds.length || (!hasHoles && !this.#task);
    byId("prompt").style.setProperty("height", "auto");
    byId("prompt").style.setProperty("height", `${Math.min(byId("prompt").scrollHeight, 180)}px`);
  }

  #choice(name, remember) {
    const input = h("input", { type: "radio", name: "task", value: name, checked: name === this.#task });
    input.addEventListener("change", () => {
      this.#task = name;
      remember();
    });
    return h("label", {}, input, TASKS[name].verb);
  }

  #submit() {
    if (byId("send").disabled) return byId("prompt").focus();
    const given = this.#given;
    this.#send(this.#task ? asking(this.#task, given, decoding()) : filling(given, decoding()));
    this.#clear();
  }

  #clear() {
    byId("prompt").value = "";
    this.#attachments.clear();
  }

  async #photo() {
    const photo = await takePhoto();
    if (photo) this.attach(photo);
  }

  async #repaint(picture) {
    const request = await repaintDialog(picture, this.#given.text);
    if (!request) return;
    this.#send(request);
    this.#clear();
  }

  async #record() {
    const button = byId("record");
    if (this.#recorder) {
      this.#attachments.put(this.#recorder.stop());
      this.#recorder = null;
      button.textContent = "Record";
    } else {
      this.#recorder = await Recorder.start((samples) => button.style.setProperty("--level", levelOf(samples)));
      button.textContent = "Stop";
    }
    button.setAttribute("aria-pressed", String(this.#recorder !== null));
  }

  /** One token for each word selected; one where nothing is. */
  #hole() {
    const prompt = byId("prompt");
    const { selectionStart, selectionEnd, value } = prompt;
    const selected = value.slice(selectionStart, selectionEnd);
    const size = selected.trim().split(/\s+/).filter(Boolean).length || 1;
    const [left, right] = [selected.match(/^\s*/)[0], selected.trim() ? selected.match(/\s*$/)[0] : ""];
    prompt.setRangeText(`${left}[MASK:${size}]${right}`, selectionStart, selectionEnd, "end");
    prompt.focus();
    this.#update();
  }

  async #kindly(action) {
    try {
      this.hint("");
      await action();
    } catch (error) {
      this.hint(error.message);
    }
    byId("file").value = "";
  }
}
