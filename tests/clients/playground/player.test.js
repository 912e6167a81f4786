import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import { Player } from "../../../clients/web/player.js";

const RATE = 1000;
let clock;
let sources;

/** As much of Web Audio as the player needs, with a clock that the test turns. */
class Context {
  get currentTime() {
    return clock;
  }
  createBuffer(_, length, rate) {
    return { duration: length / rate, copyToChannel() {} };
  }
  createBufferSource() {
    const source = { connect() {}, start: (at) => (source.at = at), stop() {} };
    sources.push(source);
    return source;
  }
  close() {}
}

function passUntil(time) {
  clock = time;
  for (const source of sources.splice(0)) {
    if (source.at + source.buffer.duration <= clock) source.onended();
    else sources.push(source);
  }
}

beforeEach(() => {
  globalThis.AudioContext = Context;
  clock = 0;
  sources = [];
});

test("a pause for want of sound was not heard", () => {
  const player = new Player();
  player.add(new Float32Array(RATE), RATE);
  passUntil(3); // the first second has long ended
  assert.equal(player.isPlaying, false);
  player.add(new Float32Array(RATE), RATE);
  passUntil(3.58);
  assert.ok(Math.abs(player.playedS - 1.5) < 1e-9, `${player.playedS}`);
});

test("pieces follow each other without a gap", () => {
  const player = new Player();
  for (let count = 0; count < 3; count++) player.add(new Float32Array(RATE / 2), RATE);
  const [first, second, third] = sources.map(({ at }) => at);
  assert.deepEqual([second - first, third - first].map((gap) => gap.toFixed(6)), ["0.500000", "1.000000"]);
});

test("silence is told when all has been played, and not when it was stopped", () => {
  let told = 0;
  const player = new Player(() => (told += 1));
  player.add(new Float32Array(RATE), RATE);
  player.add(new Float32Array(RATE), RATE);
  passUntil(1.5);
  assert.equal(told, 0);
  passUntil(3);
  assert.equal(told, 1);
  player.add(new Float32Array(RATE), RATE);
  const [left] = sources;
  player.stop();
  left.onended();
  assert.equal(told, 1);
  assert.equal(player.playedS, 0);
});
