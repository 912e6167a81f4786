/** Which part of a sound is to be said anew, and how: by its words, by dragging over the timeline, or by its times. */

import { h } from "./dom.js";
import { decoding } from "./options.js";
import { respeaking } from "./request.js";
import { wordTimes } from "./word-times.js";

/**
 * @param {import("./speech-view.js").SpeechView} view @param {Blob} blob its sound @param {string} text what it says
 * @param {(request: import("./request.js").Request) => void} send
 */
export function respeakForm(view, blob, text, send) {
  const words = text.trim().split(/\s+/).filter(Boolean);
  const last = Math.floor(view.duration * 100) / 100;
  const time = (value) => h("input", { type: "number", min: 0, max: last, step: 0.01, value, required: true });
  const [start, end] = [time(0), time(last)];
  const whole = h("input", { type: "text", value: words.join(" "), required: true });
  const part = h("input", { type: "text", placeholder: "any" });
  const setTimes = (span) => {
    start.value = span.start.toFixed(2);
    end.value = Math.min(last, span.end).toFixed(2);
  };
  const picker = new WordPicker(words, (range) => {
    const times = wordTimes(words, view.samples, view.rate);
    const span = range ? { start: times[range[0]].start, end: times[range[1]].end } : { start: 0, end: last };
    setTimes(span);
    view.mark(range && span);
  });
  const form = h(
    "form",
    { class: "respeak", hidden: true },
    h("p", { class: "quiet" }, "Choose words, drag over the timeline, or set the times. What lies outside stays as it is, sample for sample."),
    words.length > 1 ? picker.element : null,
    h("label", {}, "From, s ", start),
    h("label", {}, "to, s ", end),
    h("label", { class: "wide" }, "What is said there ", part),
    h("label", { class: "wide" }, "The whole then says ", whole),
    h("button", { class: "primary" }, "Say it anew"),
  );
  part.addEventListener("input", () => (whole.value = picker.replaced(part.value) ?? whole.value));
  for (const input of [start, end]) {
    input.addEventListener("input", () => view.mark({ start: start.valueAsNumber, end: end.valueAsNumber }));
  }
  view.addEventListener("select", () => {
    form.hidden = false;
    picker.clear();
    setTimes(view.selection);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const span = { start: start.valueAsNumber, end: end.valueAsNumber, ...(part.value && { text: part.value }) };
    send(respeaking(blob, span, whole.value, decoding()));
  });
  return form;
}

/** Words in a row: the first one chosen is the selection, the next one extends it, a single one chosen again ends it. */
class WordPicker {
  element;
  #words;
  #buttons;
  #range = null; // first and last
  #onChange;

  constructor(words, onChange) {
    this.#words = words;
    this.#onChange = onChange;
    this.#buttons = words.map((word, at) =>
      h("button", { type: "button", "aria-pressed": "false", onclick: () => this.#choose(at) }, word),
    );
    this.element = h("div", { class: "wide picker", role: "group", "aria-label": "Words to say anew" }, ...this.#buttons);
  }

  /** The whole with these words in place of the chosen ones; null where none are. @param {string} text */
  replaced(text) {
    if (!this.#range) return null;
    const [first, last] = this.#range;
    const middle = text.trim() ? [text.trim()] : this.#words.slice(first, last + 1);
    return [...this.#words.slice(0, first), ...middle, ...this.#words.slice(last + 1)].join(" ");
  }

  clear() {
    this.#show(null);
  }

  #choose(at) {
    const [first, last] = this.#range ?? [at, at];
    const isWithin = this.#range && first <= at && at <= last;
    if (isWithin) this.#show(first === last ? null : [at, at]);
    else this.#show([Math.min(first, at), Math.max(last, at)]);
    this.#onChange(this.#range);
  }

  #show(range) {
    this.#range = range;
    this.#buttons.forEach((button, at) => {
      button.setAttribute("aria-pressed", String(Boolean(range && range[0] <= at && at <= range[1])));
    });
  }
}
