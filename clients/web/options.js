/** The dials below the prompt, as the `decoding` of a request. */

const STOPS = [null, 1, 2, 4, 8, 16, 32, 64, 128, 256]; // of the steps
const FIELDS = { seed: "seed", temperature: "temperature", guidance: "guidance", deadline: "deadline_ms", block: "block_size" };
const KEY = "unmask-api-key"; // in the storage of this tab, which ends with it

const byId = (id) => document.getElementById(id);

export function installOptions() {
  const slider = byId("steps");
  const tell = () => {
    const steps = STOPS[slider.value] ?? "auto";
    byId("steps-value").value = steps;
    slider.setAttribute("aria-valuetext", String(steps));
  };
  slider.addEventListener("input", tell);
  tell();
  const key = byId("key");
  key.value = sessionStorage.getItem(KEY) ?? "";
  key.addEventListener("change", () => {
    sessionStorage.setItem(KEY, key.value);
    key.dispatchEvent(new CustomEvent("key", { bubbles: true }));
  });
}

/** Only what was set: the rest is the task's. */
export function decoding() {
  const steps = STOPS[byId("steps").value];
  const chosen = steps === null ? {} : { steps };
  for (const [id, name] of Object.entries(FIELDS)) {
    if (byId(id).value !== "") chosen[name] = byId(id).valueAsNumber; // what is out of range the server explains
  }
  return chosen;
}

export function apiKey() {
  return byId("key").value || undefined;
}

/** Opens the field for the key; the server has asked for one. */
export function askForKey() {
  byId("more").open = true;
  byId("key").focus();
}
