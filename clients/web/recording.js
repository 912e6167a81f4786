/** Beside the welcome: a picture being made, once recorded from the built-in model and shown as it was streamed. */

import { readEvents } from "./client/events.js";
import { h, isStill } from "./dom.js";
import { Pace } from "./pace.js";
import { PictureView } from "./picture-view.js";
import { Unmasking } from "./unmasking.js";

const FILE = new URL("recorded.txt", import.meta.url); // the server's answer, byte for byte; docs/screenshots.py makes it
const BEGIN_MS = 1400; // the headline goes first

/** Fills the figure, where the page has room for it. */
export async function showRecording() {
  const figure = document.getElementById("recording");
  if (figure.offsetParent === null) return;
  const { prompt } = figure.dataset;
  const response = await fetch(FILE).catch(() => null);
  if (!response?.ok) return;
  const unmasking = new Unmasking();
  let answer;
  for await (const event of readEvents(response)) {
    unmasking.take(event);
    answer = event;
  }
  const view = new PictureView(unmasking);
  const caption = h("figcaption", {}, prompt, h("span", { class: "quiet" }, `${answer.model}, ${answer.usage.steps} steps, recorded`));
  figure.replaceChildren(view.element, caption);
  view.finish(answer.output[0].blob, prompt);
  if (isStill()) return;
  const pace = new Pace((index) => view.show(index));
  view.show(-1);
  setTimeout(() => pace.replay(unmasking.frames.length), BEGIN_MS);
}
