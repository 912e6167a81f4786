/** Where the words of a recording are, by a guess. */

import { peaksOf } from "./wav.js";

const FRAME_S = 0.01;
const QUIET = 0.06; // of the loudest: below it nobody speaks

/**
 * The time in which something sounds, shared out by letters. Nobody listens: it is a first selection, to be corrected.
 * @param {string[]} words @param {Float32Array} samples @param {number} rate @returns {{start: number, end: number}[]} in seconds
 */
export function wordTimes(words, samples, rate) {
  const duration = samples.length / rate;
  const peaks = [...peaksOf(samples, Math.max(1, Math.round(duration / FRAME_S)))];
  const frameS = duration / peaks.length;
  const threshold = QUIET * peaks.reduce((loudest, peak) => Math.max(loudest, peak), 0);
  const sounding = [...peaks.keys()].filter((at) => peaks[at] > threshold);
  const frames = sounding.length ? sounding : [...peaks.keys()];
  const numLetters = words.reduce((sum, word) => sum + word.length, 0);
  let letters = 0;
  return words.map((word) => {
    const first = Math.min(frames.length - 1, Math.floor((letters / numLetters) * frames.length));
    letters += word.length;
    const last = Math.max(first, Math.ceil((letters / numLetters) * frames.length) - 1);
    return { start: frames[first] * frameS, end: (frames[last] + 1) * frameS };
  });
}
