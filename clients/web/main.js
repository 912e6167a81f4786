/** Unmask's playground: puts the page together. */

import { UnmaskClient } from "./client/index.js";
import { Composer } from "./composer.js";
import { apiKey, askForKey, installOptions } from "./options.js";
import { Player } from "./player.js";
import { showRecording } from "./recording.js";
import { Talk } from "./talk.js";
import { Turn } from "./turn.js";
import { showExamples, unmaskHeadline } from "./welcome.js";

const BASE = new URL("..", import.meta.url).href; // also where a proxy serves the page under a prefix
const LOADING_MS = 1500; // between two looks whether the model is there

const byId = (id) => document.getElementById(id);
const player = new Player();
const running = new Set();

const page = {
  client: () => new UnmaskClient({ baseUrl: BASE, apiKey: apiKey() }),
  origin: BASE,
  player,
  send,
  attach: (blob) => composer.attach(blob),
  write: (text) => composer.write(text),
};
const composer = new Composer(send);

async function send(request) {
  player.stop();
  if (request.output.includes("audio")) player.unlock();
  byId("welcome").hidden = true;
  const turn = new Turn(request, page);
  byId("turns").append(turn.element);
  turn.element.scrollIntoView({ block: "start" });
  running.add(turn);
  await turn.run();
  running.delete(turn);
  if (turn.element === byId("turns").lastElementChild) turn.element.scrollIntoView({ block: "nearest" });
}

async function talk() {
  const element = byId("talk");
  byId("welcome").hidden = true;
  byId("writing").hidden = !(element.hidden = false);
  try {
    await new Talk(element, byId("turns")).run(page.client());
    composer.hint("");
  } catch (error) {
    composer.hint(error.message);
  }
  byId("writing").hidden = !(element.hidden = true);
  byId("start-talk").focus();
}

/** What the model can do; asks again while it is still loading. */
async function learnModel() {
  const headers = apiKey() ? { authorization: `Bearer ${apiKey()}` } : {};
  const response = await fetch(`${BASE}v1/models`, { headers }).catch(() => null);
  if (response?.status === 401) {
    composer.hint("This server asks for an API key.");
    return askForKey();
  }
  if (!response?.ok) {
    byId("model").textContent = response ? "The model is loading" : "The server cannot be reached";
    return setTimeout(learnModel, LOADING_MS);
  }
  const { data } = await response.json();
  byId("model").textContent = data[0].id;
  composer.offer(data[0].tasks);
  showExamples(data[0].tasks, send);
}

installOptions();
unmaskHeadline();
showRecording();
byId("start-talk").addEventListener("click", talk);
addEventListener("key", learnModel);
addEventListener("keydown", (event) => {
  if (event.key === "Escape") for (const turn of running) turn.stop();
});
// What is scrolled to must not end up behind the prompt.
new ResizeObserver(([{ target }]) => {
  document.documentElement.style.setProperty("scroll-padding-bottom", `${target.offsetHeight + 16}px`);
}).observe(byId("composer"));
learnModel();
