/** What can be asked for, by what is put in. The server picks the task; this says which outputs lead to it. */

export const TASKS = {
  t2i: { inputs: ["text"], outputs: ["image"], verb: "Draw" },
  chat: { inputs: ["text"], outputs: ["text"], verb: "Reply" },
  tts: { inputs: ["text"], outputs: ["audio"], verb: "Say" },
  vqa: { inputs: ["image", "text"], outputs: ["text"], verb: "Answer" },
  caption: { inputs: ["image"], outputs: ["text"], verb: "Describe" },
  sqa: { inputs: ["audio"], outputs: ["text", "audio"], verb: "Reply aloud" },
  asr: { inputs: ["audio"], outputs: ["text"], verb: "Write down" },
  s2i: { inputs: ["audio"], outputs: ["image"], verb: "Draw" },
  svqa: { inputs: ["audio", "image"], outputs: ["text", "audio"], verb: "Answer aloud" },
};
export const HOLE = /\[MASK:(\d+)\]/g;

const NAMES = { text: "words", image: "a picture", audio: "a recording" };

/** Names of the tasks that take exactly these inputs. @param {string[]} kinds @param {string[]} offered by the model */
export function tasksFor(kinds, offered) {
  const wanted = [...kinds].sort().join();
  return offered.filter((name) => TASKS[name]?.inputs.join() === wanted);
}

/** Why there is nothing to ask for. @param {string[]} kinds @param {string[]} offered */
export function refusal(kinds, offered) {
  const pairs = new Set(offered.filter((name) => TASKS[name]).map((name) => inWords(TASKS[name].inputs)));
  return `This model takes ${[...pairs].join("; ")}. It does not take ${inWords([...kinds].sort())} together.`;
}

function inWords(kinds) {
  return kinds.map((kind) => NAMES[kind]).join(" with ");
}
