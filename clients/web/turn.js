/** One exchange: what was asked, and the answer while it is unmasked and after. */

import { announce, h, urlOf } from "./dom.js";
import { Making } from "./making.js";
import { decoding } from "./options.js";
import { repaintDialog } from "./repaint.js";
import { problemElement } from "./problem.js";
import { samplesElement } from "./samples.js";
import { recordingElement, soundControls } from "./sound.js";

export class Turn {
  element;
  #request;
  #page;
  #making;
  #stop = new AbortController();
  #status = h("p", { class: "facts" }, "Waiting");
  #actions = h("div", { class: "actions" });

  /**
   * @param {import("./request.js").Request} request
   * @param page what a turn can ask of the page: client(), player, origin, send(request), attach(blob), write(text)
   */
  constructor(request, page) {
    this.#request = request;
    this.#page = page;
    this.#making = new Making(request, page.player);
    const answer = h("div", { class: "answer" }, this.#making.element, this.#status, this.#actions);
    this.element = h("article", { class: "turn", tabindex: "-1" }, askedElement(request), answer);
  }

  /** Resolves when the answer is there, or is not to be. */
  async run() {
    this.#actions.replaceChildren(button("Stop", () => this.#stop.abort()));
    announce(`${this.#request.verb}: working`);
    try {
      const client = this.#page.client();
      const answer = await this.#making.run(client, this.#stop.signal, (text) => (this.#status.textContent = text));
      this.#finished(answer);
    } catch (error) {
      this.#failed(error);
    }
  }

  stop() {
    this.#stop.abort();
  }

  #finished(answer) {
    const seconds = ((answer.timings?.total_ms ?? 0) / 1000).toFixed(answer.timings?.total_ms < 950 ? 2 : 1);
    const cut = answer.status === "incomplete" ? " · the canvas was too short for the whole" : "";
    this.#status.textContent = `${answer.usage.steps} steps · ${seconds} s · ${answer.task} · ${answer.model}${cut}`;
    const extras = [];
    this.#actions.replaceChildren(...answer.output.flatMap((part) => this.#actionsFor(part, answer, extras)));
    this.#actions.append(button("Again", () => this.#again()));
    this.#actions.after(...extras, samplesElement(this.#request, this.#page.origin));
    const text = answer.output.find((part) => part.type === "text")?.text;
    announce(text ? `Answer: ${text}` : `Answer: ${answer.output[0].type === "image" ? "a picture" : "speech"}`);
  }

  /** The same, with the dials as they stand now. */
  #again() {
    this.#page.send({ ...this.#request, decoding: decoding() });
  }

  /** @param {HTMLElement[]} extras takes what stands below the actions */
  #actionsFor(part, answer, extras) {
    const page = this.#page;
    if (part.type === "image") {
      const repaint = async () => {
        const request = await repaintDialog(part.blob, this.#request.shown.text ?? "");
        if (request) page.send(request);
      };
      return [button("Ask about it", () => page.attach(part.blob)), button("Repaint", repaint), save(part.blob, "picture.png")];
    }
    if (part.type === "audio") {
      const words = answer.output.find(({ type }) => type === "text")?.text ?? this.#request.shown.text ?? "";
      const { play, form } = soundControls(this.#making.speech, part.blob, words, page);
      extras.push(form);
      const toggle = button("Say a part anew", () => (form.hidden = !form.hidden));
      return [play, toggle, button("Use as input", () => page.attach(part.blob)), save(part.blob, "speech.wav")];
    }
    if (answer.output.length > 1) return []; // the words of something spoken
    const actions = [button("Copy", () => navigator.clipboard.writeText(part.text)), button("Use as prompt", () => page.write(part.text))];
    return answer.task === "asr" ? [...actions, this.#editRecording(part.text)] : actions;
  }

  /** Words of a transcript can be said anew in the recording itself. */
  #editRecording(words) {
    const edit = button("Say a part anew", async () => {
      edit.disabled = true;
      const element = await recordingElement(this.#request.shown.audio, words, this.#page).catch((error) => problemElement(error, null));
      this.#actions.after(element);
    });
    return edit;
  }

  #failed(error) {
    this.#making.abandon();
    if (this.#stop.signal.aborted) {
      this.#status.textContent = "Stopped";
      this.#actions.replaceChildren(button("Again", () => this.#again()));
      return;
    }
    this.#status.remove();
    this.#making.element.remove();
    this.#actions.replaceChildren(problemElement(error, () => this.#again()));
  }
}

function askedElement({ verb, shown, edit }) {
  const parts = [];
  if (shown.image) parts.push(h("img", { src: urlOf(shown.image), alt: "The picture that was given" }));
  if (shown.audio) parts.push(h("audio", { src: urlOf(shown.audio), controls: true, "aria-label": "The recording that was given" }));
  if (shown.text) parts.push(h("p", { class: "prompt" }, shown.text));
  const seconds = edit?.spans?.map(({ start, end }) => ` ${start.toFixed(2)} to ${end.toFixed(2)} s`) ?? [];
  return h("header", { class: "asked" }, h("h2", {}, verb + seconds.join()), ...parts);
}

function button(label, onclick) {
  return h("button", { type: "button", onclick }, label);
}

function save(blob, name) {
  return h("a", { class: "button", href: urlOf(blob), download: name }, "Save");
}
