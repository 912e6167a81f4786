/** Text filling in: masks, guesses in the shade of their confidence, and words that stay. */

import { h } from "./dom.js";

const UNKNOWN = { state: "masked", text: null, sureness: 0, isNew: false };
const SPECIAL = /^(<\|.*\|>)?$/; // frames and ends an answer; nothing to read

export class WordsView {
  element = h("p", { class: "words" });
  #unmasking;
  #given;
  #final = null;

  /** @param given the text around the holes, where holes are filled in: one piece more than there are holes */
  constructor(unmasking, given = null) {
    this.#unmasking = unmasking;
    this.#given = given;
  }

  show(index) {
    const isLast = this.#final !== null && index === this.#unmasking.frames.length - 1;
    const cells = this.#cells(index);
    this.element.classList.toggle("final", isLast);
    this.element.replaceChildren(...(this.#given ? this.#filled(cells) : untilTheEnd(cells, isLast).map(tokenOf)));
    if (isLast && !this.element.textContent.trim()) this.element.textContent = this.#final || "(no words)";
  }

  /** @param {string} text */
  finish(text) {
    this.#final = text;
    this.show(this.#unmasking.frames.length - 1);
  }

  /** Those of the text. Where speech follows, its begin is the first that was given. */
  #cells(index) {
    const cells = this.#unmasking.at(index);
    if (this.#given) return cells.filter((cell) => cell.state !== "given");
    const speech = cells.findIndex((cell) => cell.state === "given");
    return speech > 0 ? cells.slice(0, speech) : cells;
  }

  #filled(cells) {
    const [before, ...rest] = this.#given;
    const nodes = [document.createTextNode(before.text)];
    let at = 0;
    for (const { size, text } of rest) {
      for (const end = at + size; at < end; at++) {
        const token = tokenOf(cells[at] ?? UNKNOWN);
        if (/\s$/.test(nodes.at(-1).textContent)) token.textContent = token.textContent.trimStart();
        nodes.push(token);
      }
      nodes.push(document.createTextNode(text));
    }
    return nodes;
  }
}

/** Once all is known, what follows the end of the answer is of no interest. */
function untilTheEnd(cells, isLast) {
  const end = isLast ? cells.findIndex(isSpecial) : -1;
  return end < 0 ? cells : cells.slice(0, end);
}

function tokenOf({ state, text, sureness, isNew }) {
  const isSilent = isSpecial({ text }) || text === "\n";
  const classes = ["token", state, isNew && "new", isSilent && "silent"].filter(Boolean).join(" ");
  const shown = state === "masked" || isSilent ? "" : text;
  const token = h("span", { class: classes, title: state === "masked" ? null : `${Math.round(100 * sureness)} % sure` }, shown);
  token.style.setProperty("--sure", sureness.toFixed(2));
  return token;
}

function isSpecial({ text }) {
  return text !== null && SPECIAL.test(text);
}
