import assert from "node:assert/strict";
import { test } from "node:test";

import { Downsampler, peaksOf, wavOf } from "../../../clients/web/wav.js";

const ramp = Float32Array.from({ length: 4410 }, (_, at) => Math.sin(at / 30));

test("in pieces as in one", () => {
  const whole = [...new Downsampler(44_100, 24_000).feed(ramp)];
  const sampler = new Downsampler(44_100, 24_000);
  const pieces = [ramp.slice(0, 7), ramp.slice(7, 1000), ramp.slice(1000)].flatMap((piece) => [...sampler.feed(piece)]);
  assert.ok(Math.abs(whole.length - 2400) <= 1);
  assert.equal(pieces.length, whole.length);
  pieces.forEach((sample, at) => assert.ok(Math.abs(sample - whole[at]) < 0.05));
});

test("a recording is a WAV file of 16 bits", async () => {
  const blob = wavOf([Float32Array.of(0, 1), Float32Array.of(-2)], 16_000);
  const view = new DataView(await blob.arrayBuffer());
  assert.equal(blob.type, "audio/wav");
  assert.equal(view.byteLength, 44 + 6);
  assert.equal(view.getUint32(24, true), 16_000);
  assert.deepEqual([44, 46, 48].map((at) => view.getInt16(at, true)), [0, 32767, -32767]);
});

test("peaks cover all samples", () => {
  assert.deepEqual([...peaksOf(Float32Array.of(0, 0.5, -1, 0), 2)], [0.5, 1]);
});
