/** A spoken dialogue in the conversation: who said what. */

import { h } from "./dom.js";

export class TalkLog {
  #turns;
  #asked = new Map(); // id of the user's item -> element of its words
  #answers = new Map(); // id of the answer's item -> element of its words
  #last = null; // answer element that waits for an item

  /** @param {HTMLElement} turns */
  constructor(turns) {
    this.#turns = turns;
  }

  get lastAnswer() {
    return this.#last?.textContent ?? "";
  }

  asked(itemId) {
    const words = h("p", { class: "prompt" }, "…");
    this.#asked.set(itemId, words);
    this.#last = h("p", { class: "words final" });
    const turn = h("article", { class: "turn spoken" }, h("header", { class: "asked" }, h("h2", {}, "You said"), words), this.#last);
    this.#turns.append(turn);
    turn.scrollIntoView({ block: "end" });
  }

  heard(itemId, transcript) {
    const words = this.#asked.get(itemId);
    if (words) words.textContent = transcript.trim() || "(nothing that could be understood)";
  }

  said(itemId, text) {
    if (!this.#answers.has(itemId) && this.#last) this.#answers.set(itemId, this.#last);
    this.#answers.get(itemId)?.append(text);
  }

  interrupted(itemId) {
    this.#answers.get(itemId)?.append(h("span", { class: "quiet" }, " (interrupted)"));
  }

  /** What is to be said about the last answer. */
  note(message) {
    this.#last?.append(h("span", { class: "quiet" }, message));
  }
}
