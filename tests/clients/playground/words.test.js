import assert from "node:assert/strict";
import { test } from "node:test";

import { wordTimes } from "../../../clients/web/word-times.js";

const RATE = 1000;
const sound = (...parts) => Float32Array.from(parts.flatMap(([level, ms]) => Array(ms).fill(level)));

test("words share out the time that sounds, by their letters", () => {
  const times = wordTimes(["a", "red", "circle"], sound([0, 500], [0.5, 1000], [0, 500]), RATE);
  assert.equal(times[0].start, 0.5);
  assert.equal(times[2].end, 1.5);
  assert.deepEqual(times.map(({ end }) => end.toFixed(1)), ["0.6", "0.9", "1.5"]);
});

test("pauses belong to no word", () => {
  const times = wordTimes(["red", "hat"], sound([0.5, 300], [0.01, 400], [0.5, 300]), RATE);
  assert.ok(times[0].end <= 0.3 + 1e-9 && times[1].start >= 0.7 - 1e-9, JSON.stringify(times));
});

test("silence and nothing at all are no mistake", () => {
  for (const samples of [sound([0, 200]), new Float32Array(0)]) {
    const times = wordTimes(["red", "circle"], samples, RATE);
    for (const { start, end } of times) assert.ok(start >= 0 && end >= start && end <= 0.2 + 1e-9);
  }
});
