/** A spoken dialogue over /v1/realtime: hands free, where speaking interrupts the answer, or push to talk. */

import { SAMPLE_RATE } from "./client/index.js";
import { announce, h } from "./dom.js";
import { levelOf, Microphone } from "./microphone.js";
import { Player } from "./player.js";
import { TalkLog } from "./talk-log.js";
import { Downsampler } from "./wav.js";

const LEAST_TURN_S = 0.1; // the server refuses shorter ones
const HOLD = "Hold the button, or Space on it, and talk";

export class Talk {
  #session;
  #microphone;
  #player = new Player(() => this.#rest());
  #log;
  #isOpen = false; // samples go to the server
  #hasEnded = false;
  #isHandsFree = true;
  #isAnswering = false; // from the response's beginning to its end
  #speaking = null; // the id of the answer's item
  #silenced = new Set(); // ids of items that were interrupted: what still comes of them is not played
  #turnS = 0; // of sound that was sent since the button was pressed
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
    element.querySelector("input").focus();
    this.#hold.addEventListener("pointerdown", () => this.#press());
    for (const name of ["pointerup", "pointercancel", "blur"]) this.#hold.addEventListener(name, () => this.#release());
    this.#hold.addEventListener("keydown", (event) => this.#key(event, () => this.#press()));
    this.#hold.addEventListener("keyup", (event) => this.#key(event, () => this.#release()));
  }

  /** Resolves when the dialogue has ended. @param {import("./client/index.js").UnmaskClient} client */
  async run(client) {
    try {
      await this.#player.unlock();
      this.#session = await client.realtime({ turnDetection: this.#isHandsFree });
      this.#set({ transcription: { model: "default" } });
      if (this.#hasEnded) return; // the user did not wait for the connection
      let sampler;
      this.#microphone = await Microphone.open((samples, rate) => {
        sampler ??= new Downsampler(rate, SAMPLE_RATE);
        this.#level.style.setProperty("--level", levelOf(samples));
        this.#heard(sampler.feed(samples));
      });
      if (this.#hasEnded) return;
      this.#switch(this.#isHandsFree);
      for await (const event of this.#session) this.#take(event);
    } catch (error) {
      if (!this.#hasEnded) throw error;
    } finally {
      this.end();
    }
  }

  end() {
    this.#hasEnded = true;
    this.#isOpen = false;
    this.#session?.close();
    this.#microphone?.close();
    this.#microphone = null;
    this.#player.close();
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
    this.#isHandsFree = handsFree;
    this.#hold.hidden = handsFree;
    if (!this.#microphone) return; // still connecting: done once it is there
    this.#isOpen = handsFree;
    this.#set({ turn_detection: handsFree ? { type: "server_vad" } : null });
    this.#session.send("input_audio_buffer.clear");
    this.#rest();
  }

  /** @param {Float32Array} piece from the microphone */
  #heard(piece) {
    if (!this.#isOpen) return;
    this.#turnS += piece.length / SAMPLE_RATE;
    this.#session.append(piece);
  }

  #set(input) {
    this.#session.send("session.update", { session: { type: "realtime", audio: { input } } });
  }

  #take(event) {
    const { type } = event;
    if (type === "input_audio_buffer.speech_started") this.#interrupt();
    else if (type === "input_audio_buffer.committed") this.#asked(event);
    else if (type === "response.created") this.#begun();
    else if (type === "conversation.item.input_audio_transcription.completed") this.#log.heard(event.item_id, event.transcript);
    else if (type === "response.output_audio.delta") this.#speak(event);
    else if (type === "response.output_audio_transcript.delta") this.#log.said(event.item_id, event.delta);
    else if (type === "response.done") this.#done(event.response);
    else if (type === "error" && event.error.code !== "response_cancel_not_active") this.#say(event.error.message);
  }

  #begun() {
    this.#isAnswering = true;
    this.#speaking = null;
  }

  #asked({ item_id }) {
    this.#log.asked(item_id);
    this.#say("Thinking");
  }

  #speak({ item_id, samples }) {
    if (this.#silenced.has(item_id)) return;
    if (this.#speaking !== item_id) this.#player.stop();
    this.#speaking = item_id;
    this.#player.add(samples, SAMPLE_RATE);
    this.#say(this.#isHandsFree ? "Speaking; talk to interrupt" : "Speaking; hold the button to interrupt");
  }

  #done({ status, status_details }) {
    this.#isAnswering = false;
    if (status === "failed") this.#log.note(status_details?.error?.message ?? "The answer failed.");
    else if (!this.#log.lastAnswer && status !== "cancelled") this.#log.note("(The model had nothing to say.)");
    announce(this.#log.lastAnswer);
    if (!this.#player.isPlaying) this.#rest();
  }

  /** The user speaks: silence, and the server learns how much was heard. */
  #interrupt() {
    this.#say("Listening");
    const isHeard = this.#player.isPlaying;
    if (!this.#speaking || !(isHeard || this.#isAnswering)) return;
    const playedMs = 1000 * this.#player.playedS;
    this.#player.stop();
    this.#silenced.add(this.#speaking);
    if (isHeard) this.#session.truncate(this.#speaking, playedMs);
    this.#log.interrupted(this.#speaking);
    this.#speaking = null;
  }

  #press() {
    if (this.#isOpen || !this.#microphone) return;
    if (this.#isAnswering) this.#session.send("response.cancel"); // hands free the server does so by itself
    this.#interrupt();
    this.#turnS = 0;
    this.#isOpen = true;
    this.#hold.classList.add("held");
  }

  #release() {
    if (!this.#isOpen || this.#isHandsFree) return;
    this.#isOpen = false;
    this.#hold.classList.remove("held");
    if (this.#turnS >= LEAST_TURN_S) return this.#session.commit();
    this.#session.send("input_audio_buffer.clear");
    this.#say("That was too short: hold the button for as long as you talk");
  }

  /** Nobody speaks, and nothing is thought about. */
  #rest() {
    if (!this.#isAnswering) this.#say(this.#isHandsFree ? "Listening" : HOLD);
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
