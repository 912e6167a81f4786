import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";

import { samplesOf } from "../../../clients/web/samples.js";
import { refusal, tasksFor } from "../../../clients/web/tasks.js";

const OFFERED = ["t2i", "chat", "vqa", "asr"];
const picture = new Blob([], { type: "image/png" });
const drawing = { input: ["it's red"], output: ["image"], decoding: { steps: 8 } };
const repainting = { ...drawing, edit: { target: picture, mask: picture } };
const speech = new Blob([], { type: "audio/wav" });
const respeaking = { ...drawing, output: ["audio"], edit: { target: speech, spans: [{ start: 0.2, end: 0.6 }] } };

test("inputs decide what can be asked for", () => {
  assert.deepEqual(tasksFor(["text"], OFFERED), ["t2i", "chat"]);
  assert.deepEqual(tasksFor(["text", "image"], OFFERED), ["vqa"]);
  assert.deepEqual(tasksFor(["audio", "text"], OFFERED), []);
  assert.match(refusal(["audio", "text"], OFFERED), /does not take a recording with words together/);
});

test("what the shell reads is what was written", () => {
  const { curl } = samplesOf(drawing, "http://localhost:8000/");
  const shown = execFileSync("sh", ["-c", curl.replace(/^curl/, "printf '%s\\n'")], { encoding: "utf8" }).split("\n");
  assert.equal(shown[0], "http://localhost:8000/v1/generate");
  assert.deepEqual(JSON.parse(shown[shown.indexOf("-d") + 1]).input, "it's red");
  assert.ok(shown.includes("Accept: image/*"));
});

test("media stand in as files", () => {
  const { curl, JSON: json, Python: python } = samplesOf(repainting, "http://localhost:8000/");
  assert.match(curl, /-F target=@target\.png .*-F mask=@mask\.png/s);
  assert.equal(JSON.parse(json).edit.target.data, "<base64 of target.png>");
  assert.match(python, /client\.edit\(Image\.of\("target\.png"\), "it's red", mask="mask\.png", steps=8\)/);
});

test("a span whose words are not given says none", () => {
  const { Python: python } = samplesOf(respeaking, "http://localhost:8000/");
  assert.match(python, /spans=\[Span\(0\.2, 0\.6\)\]/);
});

test("the sample for Python is Python", () => {
  for (const request of [drawing, repainting, respeaking, { ...drawing, input: ["what", picture], output: ["text"] }]) {
    const { Python: python } = samplesOf(request, "http://localhost:8000/");
    execFileSync("python3", ["-c", "import ast, sys; ast.parse(sys.argv[1])", python]);
  }
});
