/** A spoken dialogue over /v1/realtime: hands free, where speaking interrupts the answer, or push to talk. */

import { SAMPLE_RATE } from "./client/index.js";
import { announce, h } from "./dom.js";
import { levelOf, Microphone } from "./microphone.js";
import { Player } from "./player.js";
import { TalkLog } from "./talk-log.js";
import { Downsampler } from "./wav.js";

export class Talk {
  #session;
  #microphone;
  #player = new Player();
  #log;
  #isOpen = false; // samples go to the server
  #isHandsFree = true;
  #speaking = null; // the id of the answer's item
  #status = h("p", { class: "status", role: "status" }, "Connecting");
  #level = h("div", { class: "level", "aria-hidden": "true" });
  #hold = h("button", { type: "button", class: "primary", hidden: true }, "Hold to talk");
  #element;

  /** @param {HTMLElement} element to be filled @param {HTMLElement} turns for what is said */
  constructor(element, turns) {
    this.#element = element;
    this.#log = new TalkLog(turns);
    const end = h("button", { type: "button", onclick: () => this.end() }, "End");
    element.replaceChildren(this.#level, this.#status, this.#modes(), this.#hold, end);
    this.#hold.addEventListener("pointerdown", () => this.#press());
    for (const name of ["pointerup", "pointercancel", "blur"]) this.#hold.addEventListener(name, () => this.#release());
    this.#hold.addEventListener("keydown", (event) => this.#key(event, () => this.#press()));
    this.#hold.addEventListener("keyup", (event) => this.#key(event, () => this.#release()));
  }

  /** Resolves when the dialogue has ended. @param {import("./client/index.js").UnmaskClient} client */
  async run(client) {
    try {
      await this.#player.unlock();
      this.#session = await client.realtime({ turnDetection: true });
      this.#set({ transcription: { model: "default" } });
      let sampler;
      this.#microphone = await Microphone.open((samples, rate) => {
        sampler ??= new Downsampler(rate, SAMPLE_RATE);
        this.#level.style.setProperty("--level", levelOf(samples));
        const piece = sampler.feed(samples);
        if (this.#isOpen) this.#session.append(piece);
      });
      this.#isOpen = this.#isHandsFree;
      this.#say(this.#isHandsFree ? "Listening" : "Hold the button, or Space on it, and talk");
      for await (const event of this.#session) this.#take(event);
    } finally {
      this.end();
    }
  }

  end() {
    this.#isOpen = false;
    this.#session?.close();
    this.#microphone?.close();
    this.#microphone = null;
    this.#player.stop();
  }

  #modes() {
    const mode = (label, handsFree) => {
      const input = h("input", { type: "radio", name: "mode", checked: handsFree });
      input.addEventListener("change", () => this.#switch(handsFree));
      return h("label", {}, input, label);
    };
    return h("fieldset", { class: "choices" }, h("legend", { class: "unseen" }, "Turns"), mode("Hands free", true), mode("Push to talk", false));
  }

  #switch(handsFree) {
    this.#isHandsFree = this.#isOpen = handsFree;
    this.#hold.hidden = handsFree;
    this.#set({ turn_detection: handsFree ? { type: "server_vad" } : null });
    this.#session.send("input_audio_buffer.clear");
    this.#say(handsFree ? "Listening" : "Hold the button, or Space on it, and talk");
  }

  #set(input) {
    this.#session.send("session.update", { session: { type: "realtime", audio: { input } } });
  }

  #take(event) {
    const { type } = event;
    if (type === "input_audio_buffer.speech_started") this.#interrupt();
    else if (type === "input_audio_buffer.committed") this.#asked(event);
    else if (type === "conversation.item.input_audio_transcription.completed") this.#log.heard(event.item_id, event.transcript);
    else if (type === "response.output_audio.delta") this.#speak(event);
    else if (type === "response.output_audio_transcript.delta") this.#log.said(event.item_id, event.delta);
    else if (type === "response.done") this.#done(event.response);
    else if (type === "error") this.#say(event.error.message);
  }

  #asked({ item_id }) {
    this.#log.asked(item_id);
    this.#say("Thinking");
  }

  #speak({ item_id, samples }) {
    if (this.#speaking !== item_id) this.#player.stop();
    this.#speaking = item_id;
    this.#player.add(samples, SAMPLE_RATE);
    this.#say("Speaking; talk to interrupt");
  }

  #done({ status, status_details }) {
    if (status === "failed") this.#log.note(status_details?.error?.message ?? "The answer failed.");
    else if (!this.#log.lastAnswer && status !== "cancelled") this.#log.note("(The model had nothing to say.)");
    announce(this.#log.lastAnswer);
    if (status !== "completed" || !this.#player.isPlaying) this.#say("Listening");
  }

  /** The user speaks: silence, and the server learns how much was heard. */
  #interrupt() {
    this.#say("Listening");
    if (!this.#speaking || !this.#player.isPlaying) return;
    const playedMs = 1000 * this.#player.playedS;
    this.#player.stop();
    this.#session.truncate(this.#speaking, playedMs);
    this.#log.interrupted(this.#speaking);
    this.#speaking = null;
  }

  #press() {
    if (this.#isOpen || !this.#session) return;
    this.#interrupt();
    this.#isOpen = true;
    this.#hold.classList.add("held");
  }

  #release() {
    if (!this.#isOpen || this.#isHandsFree) return;
    this.#isOpen = false;
    this.#hold.classList.remove("held");
    this.#session.commit();
  }

  #key(event, act) {
    if (event.key !== " " && event.key !== "Enter") return;
    event.preventDefault();
    if (!event.repeat) act();
  }

  #say(text) {
    this.#status.textContent = text;
  }
}
