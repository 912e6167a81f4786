/** What went wrong, said kindly: the server's own words, and what helps. */

import { h } from "./dom.js";
import { askForKey } from "./options.js";

/** @param {any} error @param {(() => void) | null} again */
export function problemElement(error, again) {
  const actions = [];
  if (error.status === 401) actions.push(h("button", { type: "button", onclick: askForKey }, "Enter the key"));
  if (again) actions.push(h("button", { type: "button", onclick: again }, "Try again"));
  return h(
    "div",
    { class: "problem", role: "alert" },
    h("p", {}, sentence(error.message)),
    h("p", { class: "quiet" }, hintFor(error)),
    h("p", { class: "actions" }, ...actions),
  );
}

function hintFor({ status, param, requestId }) {
  if (status === 429 || status === 503) return "It was tried several times. A moment of patience often helps.";
  if (status === 401) return "The key stays in this tab and is sent to this server alone.";
  if (status >= 500) return `If it happens again, the server's log has the reason under ${requestId}.`;
  if (status === null) return "Is the server still running, and the network up?";
  if (param?.startsWith("decoding.")) return "The dials below the prompt set this.";
  return "";
}

function sentence(message) {
  const text = message.charAt(0).toUpperCase() + message.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
