/** A finished sound: its button, its timeline, and a part of it to be said anew. */

import { h, urlOf } from "./dom.js";
import { respeakForm } from "./respeak.js";
import { SpeechView } from "./speech-view.js";
import { Unmasking } from "./unmasking.js";

const RATE = 48_000; // a recording is looked at with

/**
 * Makes a SpeechView play `blob`.
 * @param {SpeechView} view @param {Blob} blob @param {string} words what it says
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

/** A recording that was given, on a timeline like the model's own speech, ready to be changed. @param page as above */
export async function recordingElement(blob, words, page) {
  const sound = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(await blob.arrayBuffer()).catch(() => {
    throw new Error("This browser cannot read the recording.");
  });
  const view = new SpeechView(new Unmasking());
  view.finish(sound.getChannelData(0), sound.sampleRate);
  const { play, form } = soundControls(view, blob, words, page);
  form.hidden = false;
  return h("div", { class: "recording" }, view.element, h("div", { class: "actions" }, play), form);
}
