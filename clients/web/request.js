/** What is sent: requests as the client takes them, with what the page shows of them. */

import { base64OfBlob, partOf } from "./client/media.js";
import { HOLE, TASKS } from "./tasks.js";

/**
 * @typedef {object} Request
 * @property {string} verb what it is called on the page
 * @property {{text?: string, image?: Blob, audio?: Blob}} shown what the user gave
 * @property {(string | Blob)[]} input
 * @property {string[]} output
 * @property {object} decoding
 * @property {{target: string | Blob, mask?: Blob, spans?: object[]}} [edit]
 */

/** @returns {Request} */
export function asking(task, { text, image, audio }, decoding) {
  const { verb, outputs } = TASKS[task];
  return { verb, shown: { text, image, audio }, input: given(text, image, audio), output: outputs, decoding };
}

/** Text with holes, and what tells of it: a picture, a recording, or else its own words. @returns {Request} */
export function filling({ text, image, audio }, decoding) {
  const about = image || audio ? given(image, audio) : [text.replace(HOLE, " ").replace(/\s+/g, " ").trim() || "."];
  return { verb: "Fill in", shown: { text, image, audio }, input: about, output: ["text"], decoding, edit: { target: text } };
}

/** @param {Blob} target @param {Blob} mask transparent where it may change @param {string} text what the whole shows then */
export function repainting(target, mask, text, decoding) {
  return { verb: "Repaint", shown: { text, image: target }, input: [text], output: ["image"], decoding, edit: { target, mask } };
}

/** @param {Blob} target @param {object} span @param {string} text what the whole says then */
export function respeaking(target, span, text, decoding) {
  return { verb: "Say anew", shown: { text, audio: target }, input: [text], output: ["audio"], decoding, edit: { target, spans: [span] } };
}

/** The options of UnmaskClient.stream. @param {Request} request */
export async function streamOptions({ output, decoding, edit }) {
  const preview = { every_steps: 1, confidence: true };
  if (!edit) return { output, decoding, preview };
  const mask = edit.mask && (await base64OfBlob(edit.mask));
  return { output, decoding, preview, edit: { target: await partOf(edit.target), mask, spans: edit.spans } };
}

/** The pieces around the holes of a text: {text}, and behind it for each hole {size, text}. @param {string} text */
export function aroundHoles(text) {
  const [first, ...rest] = text.split(HOLE); // text, size, text, size, text
  const pieces = [{ text: first }];
  for (let at = 0; at < rest.length; at += 2) pieces.push({ size: Number(rest[at]), text: rest[at + 1] });
  return pieces;
}

function given(...parts) {
  return parts.filter(Boolean);
}
