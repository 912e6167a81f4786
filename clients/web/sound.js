/** A finished sound: its button, its timeline, and a part of it to be said anew. */

import { h, urlOf } from "./dom.js";
import { decoding } from "./options.js";
import { respeaking } from "./request.js";

/**
 * Makes a SpeechView play `blob`.
 * @param {import("./speech-view.js").SpeechView} view @param {Blob} blob @param {string} words what it says
 * @param page what a turn can ask of the page
 * @returns {{play: HTMLElement, form: HTMLElement}}
 */
export function soundControls(view, blob, words, page) {
  const audio = new Audio(urlOf(blob));
  const play = h("button", { type: "button", onclick: () => (audio.paused ? audio.play() : audio.pause()) }, "Play");
  const follow = () => {
    view.played(audio.currentTime);
    if (!audio.paused) requestAnimationFrame(follow);
  };
  audio.onplay = () => {
    page.player.stop();
    play.textContent = "Pause";
    follow();
  };
  audio.onpause = () => (play.textContent = "Play");
  audio.onended = () => view.played(0);
  view.addEventListener("seek", ({ detail }) => {
    audio.currentTime = detail;
    view.played(detail);
  });
  return { play, form: respeakForm(view, blob, words, page.send) };
}

/** Two times and two texts; dragging over the timeline sets the times. */
function respeakForm(view, blob, words, send) {
  const last = Math.floor(view.duration * 100) / 100;
  const time = (value) => h("input", { type: "number", min: 0, max: last, step: 0.01, value, required: true });
  const [start, end] = [time(0), time(last)];
  const whole = h("input", { type: "text", value: words, required: true });
  const part = h("input", { type: "text", placeholder: "any" });
  const form = h(
    "form",
    { class: "respeak", hidden: true },
    h("p", { class: "quiet" }, "Drag over the timeline, or set the times. What lies outside stays as it is, sample for sample."),
    h("label", {}, "From, s ", start),
    h("label", {}, "to, s ", end),
    h("label", { class: "wide" }, "The whole then says ", whole),
    h("label", { class: "wide" }, "of it in the span ", part),
    h("button", { class: "primary" }, "Say it anew"),
  );
  form.addEventListener("input", () => view.mark({ start: start.valueAsNumber, end: end.valueAsNumber }));
  view.addEventListener("select", () => {
    form.hidden = false;
    start.value = view.selection.start.toFixed(2);
    end.value = Math.min(last, view.selection.end).toFixed(2);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const span = { start: start.valueAsNumber, end: end.valueAsNumber, ...(part.value && { text: part.value }) };
    send(respeaking(blob, span, whole.value, decoding()));
  });
  return form;
}
