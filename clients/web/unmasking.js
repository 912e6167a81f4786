/** The making of one answer, step by step, as the server's events tell it. Knows nothing of the page. */

/** @typedef {{state: "given" | "masked" | "guess" | "committed", text: string | null, sureness: number, isNew: boolean}} Cell */

export class Unmasking {
  total = 0; // positions of the canvas
  steps = 0; // planned
  frames = []; // one a step: {step, committed, commits, guesses}, both lists of {position, text, sureness}
  previews = []; // {step, blob}
  #mentioned = new Set();

  /** @param {any} event of a stream */
  take(event) {
    const frame = this.frames.at(-1);
    if (event.type === "generation.step") {
      this.total = event.total;
      this.steps = event.steps;
      this.frames.push({ step: event.step, committed: event.committed, commits: [], guesses: [] });
    } else if (event.type === "tokens.commit") frame.commits = this.#tokens(event);
    else if (event.type === "tokens.guess") frame.guesses = this.#tokens(event);
    else if (event.type === "image.preview") this.previews.push(event);
  }

  /** The canvas as it was after the frame of this index; before the first for -1. @returns {Cell[]} */
  at(index) {
    const nothing = { text: null, sureness: 0, isNew: false };
    const cells = Array.from({ length: this.total }, (_, position) => ({ ...nothing, state: this.#initial(position) }));
    this.frames.slice(0, index + 1).forEach(({ commits }, at) => {
      for (const { position, ...token } of commits) {
        cells[position] = { ...token, state: "committed", isNew: at === index };
      }
    });
    for (const { position, ...token } of this.frames[index]?.guesses ?? []) {
      if (cells[position].state === "masked") cells[position] = { ...token, state: "guess", isNew: false };
    }
    return cells;
  }

  /** The newest preview that shows the frame of this index or an earlier one. @returns {Blob | null} */
  previewAt(index) {
    const step = this.frames[index]?.step ?? 0;
    return this.previews.findLast((preview) => preview.step <= step)?.blob ?? null;
  }

  /** What no event has mentioned was given, once all that was masked has been. */
  #initial(position) {
    const [first] = this.frames;
    const numOpen = this.total - (first ? first.committed - first.commits.length : 0);
    return this.#mentioned.has(position) || this.#mentioned.size < numOpen ? "masked" : "given";
  }

  #tokens({ positions, texts, confidence }) {
    return positions.map((position, at) => {
      this.#mentioned.add(position);
      return { position, text: texts[at] ?? null, sureness: sureness(confidence?.[at]) };
    });
  }
}

/** From 0 to 1: negative entropies and log-probabilities are at most 0, margins and probabilities above it. */
export function sureness(confidence) {
  if (confidence === null || confidence === undefined) return 1;
  return confidence <= 0 ? Math.exp(confidence) : Math.min(1, confidence);
}
