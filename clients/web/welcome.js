/** What the page shows before anything was asked. */

import { h, isStill } from "./dom.js";
import { decoding } from "./options.js";
import { asking, filling } from "./request.js";
import { TASKS } from "./tasks.js";

const EXAMPLES = [
  { task: "t2i", text: "a large red circle on a sand background" },
  { task: "t2i", text: "a blue star in the top left" },
  { task: "chat", text: "what can you do" },
  { task: "tts", text: "a green triangle" },
  { task: null, text: "grass is [MASK:1]" },
];
const LETTER_MS = 60;

/** @param {string[]} offered tasks @param {(request: import("./request.js").Request) => void} send */
export function showExamples(offered, send) {
  const fitting = EXAMPLES.filter(({ task }) => offered.includes(task ?? "chat"));
  const items = fitting.map(({ task, text }) => {
    const onclick = () => send(task ? asking(task, { text }, decoding()) : filling({ text }, decoding()));
    const verb = h("span", { class: "verb" }, task ? TASKS[task].verb : "Fill in");
    return h("li", {}, h("button", { type: "button", onclick }, verb, h("span", {}, text)));
  });
  document.getElementById("examples").replaceChildren(...items);
}

/** The headline does what it says. */
export function unmaskHeadline() {
  const headline = document.getElementById("headline");
  if (isStill()) return;
  const text = headline.textContent;
  const words = text.split(" ").map((word) => h("span", { class: "word" }, ...[...word].map((letter) => h("span", { class: "mask" }, letter))));
  headline.setAttribute("aria-label", text);
  headline.replaceChildren(h("span", { "aria-hidden": "true" }, ...words.flatMap((word) => [word, " "])));
  const letters = [...headline.querySelectorAll(".mask")];
  const order = letters.map((letter) => ({ letter, sureness: Math.random() })).sort((a, b) => b.sureness - a.sureness);
  order.forEach(({ letter }, at) => setTimeout(() => letter.classList.remove("mask"), 400 + at * LETTER_MS));
}
