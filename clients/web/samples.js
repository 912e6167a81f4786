/** A request as one would write it elsewhere: curl, Python, JSON. Media stand there as files. */

import { h } from "./dom.js";

const FILES = { image: "picture.png", audio: "recording.wav" };

/** @param {import("./request.js").Request} request @param {string} origin of the server */
export function samplesOf(request, origin) {
  return { curl: curl(request, origin), Python: python(request, origin), JSON: json(request) };
}

/** A disclosure with the samples behind tabs. */
export function samplesElement(request, origin) {
  const samples = samplesOf(request, origin);
  const code = h("code");
  const copy = h("button", { type: "button", class: "copy", onclick: () => copied(copy, code.textContent) }, "Copy");
  const tabs = Object.keys(samples).map((name) =>
    h("button", { type: "button", "aria-pressed": "false", onclick: () => choose(name) }, name),
  );
  const choose = (name) => {
    code.textContent = samples[name];
    for (const tab of tabs) tab.setAttribute("aria-pressed", String(tab.textContent === name));
  };
  choose("curl");
  const bar = h("div", { class: "tabs", role: "group", "aria-label": "Written as" }, ...tabs, copy);
  return h("details", { class: "samples" }, h("summary", {}, "Code"), bar, h("pre", { tabindex: "0" }, code));
}

async function copied(button, text) {
  await navigator.clipboard.writeText(text);
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

function json(request) {
  return JSON.stringify(body(request, (file) => ({ data: `<base64 of ${file}>` })), null, 2);
}

function curl(request, origin) {
  const files = new Map();
  const wired = body(request, (file) => {
    const name = file.split(".")[0];
    files.set(name, file);
    return { file: name };
  });
  const lines = [`curl ${origin}v1/generate`];
  if (request.output.length === 1 && request.output[0] !== "text") {
    const [kind, file] = request.output[0] === "image" ? ["image", "answer.png"] : ["audio", "answer.wav"];
    lines.push(`-H 'Accept: ${kind}/*' -o ${file}`);
  }
  if (!files.size) lines.push(`-d ${quoted(wired)}`);
  else lines.push(...[...files].map(([name, file]) => `-F ${name}=@${file}`), `--form-string request=${quoted(wired)}`);
  return lines.join(" \\\n  ");
}

function python(request, origin) {
  const { input, output, decoding, edit } = request;
  const used = new Set(["Client"]);
  const written = (part, file) => {
    if (typeof part === "string") return JSON.stringify(part);
    const name = kindOf(part) === "image" ? "Image" : "Audio";
    used.add(name);
    return `${name}.of("${file ?? FILES[kindOf(part)]}")`;
  };
  const options = Object.entries(decoding).map(([name, value]) => `${name}=${value}`);
  const parts = input.map((part) => written(part));
  const content = parts.length === 1 ? parts[0] : `[${parts.join(", ")}]`;
  let call;
  if (edit) {
    if (edit.mask) options.unshift('mask="mask.png"');
    for (const { start, end, text } of edit.spans ?? []) {
      used.add("Span");
      options.unshift(`spans=[Span(${[start, end, ...(text ? [JSON.stringify(text)] : [])].join(", ")})]`);
    }
    call = `client.edit(${[written(edit.target, targetFile(edit.target)), content, ...options].join(", ")})`;
  } else {
    call = `client.generate(${[content, `output=${JSON.stringify(output)}`, ...options].join(", ")})`;
  }
  return [
    `from unmask_client import ${[...used].sort().join(", ")}`,
    "",
    `client = Client("${origin.replace(/\/$/, "")}")`,
    `answer = ${call}`,
  ].join("\n");
}

/** @param {(file: string) => object} media how a file stands in the body */
function body({ input, output, decoding, edit }, media) {
  const part = (source, file) =>
    typeof source === "string"
      ? { type: "text", text: source }
      : { type: kindOf(source), ...media(file ?? FILES[kindOf(source)]) };
  return {
    input: input.length === 1 && typeof input[0] === "string" ? input[0] : input.map((source) => part(source)),
    output,
    ...(Object.keys(decoding).length && { decoding }),
    ...(edit && {
      edit: {
        target: part(edit.target, targetFile(edit.target)),
        ...(edit.mask && { mask: media("mask.png") }),
        ...(edit.spans && { spans: edit.spans }),
      },
    }),
  };
}

function targetFile(target) {
  return typeof target !== "string" && kindOf(target) === "image" ? "target.png" : "target.wav";
}

function kindOf(blob) {
  return blob.type.split("/")[0];
}

function quoted(value) {
  return `'${JSON.stringify(value).replaceAll("'", "'\\''")}'`;
}
