import assert from "node:assert/strict";
import { test } from "node:test";

import { sureness, Unmasking } from "../../../clients/web/unmasking.js";

const step = (number, committed) => ({ type: "generation.step", step: number, steps: 2, committed, total: 4 });
const tokens = (type, positions, texts) => ({ type, positions, texts, ids: positions, confidence: positions.map(() => 0) });

/** Position 0 is given, 2 is committed first, then 1 and 3. */
function told() {
  const unmasking = new Unmasking();
  unmasking.take(step(1, 2));
  unmasking.take(tokens("tokens.commit", [2], [" circle"]));
  unmasking.take(tokens("tokens.guess", [1, 3], [" red", " blue"]));
  unmasking.take({ type: "image.preview", step: 1, blob: "first" });
  unmasking.take(step(2, 4));
  unmasking.take(tokens("tokens.commit", [1, 3], [" red", null]));
  unmasking.take(tokens("tokens.guess", [], []));
  return unmasking;
}

const states = (unmasking, index) => unmasking.at(index).map((cell) => cell.state);

test("a canvas is masked, guessed and committed, and what is given stays", () => {
  const unmasking = told();
  assert.deepEqual(states(unmasking, -1), ["given", "masked", "masked", "masked"]);
  assert.deepEqual(states(unmasking, 0), ["given", "guess", "committed", "guess"]);
  assert.deepEqual(states(unmasking, 1), ["given", "committed", "committed", "committed"]);
  assert.deepEqual(unmasking.at(1).map((cell) => cell.isNew), [false, true, false, true]);
});

test("a commit never changes", () => {
  const unmasking = told();
  assert.equal(unmasking.at(0)[2].text, " circle");
  assert.equal(unmasking.at(1)[2].text, " circle");
});

test("what no event has mentioned yet counts as masked while masks are missing", () => {
  const unmasking = new Unmasking(); // in blocks: positions 2 and 3 are not guessed yet
  unmasking.take(step(1, 1));
  unmasking.take(tokens("tokens.commit", [0], ["a"]));
  unmasking.take(tokens("tokens.guess", [1], ["b"]));
  assert.deepEqual(states(unmasking, 0), ["committed", "guess", "masked", "masked"]);
});

test("the newest preview is shown, none from later", () => {
  const unmasking = told();
  assert.equal(unmasking.previewAt(-1), null);
  assert.equal(unmasking.previewAt(1), "first");
});

test("every algorithm's confidence becomes a shade", () => {
  assert.equal(sureness(0), 1); // no entropy
  assert.ok(sureness(-3) < sureness(-1));
  assert.equal(sureness(0.25), 0.25); // a margin
  assert.equal(sureness(null), 1); // given
});
