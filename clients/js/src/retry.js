/** When a refused request is tried again, and after how many milliseconds; the rules of the Python client. */

const RETRIED = [408, 409, 429]; // and whatever is the server's fault
const LONGEST_WAIT_MS = 120_000; // a server that names a longer one does not want to be asked again

/** null to give up. @param {number} attempt from 0 @param {Response} [response] none: no connection */
export function waitBeforeRetry(attempt, response) {
  const wanted = response?.headers.get("x-should-retry");
  if (wanted === "false") return null;
  if (response && wanted !== "true" && response.status < 500 && !RETRIED.includes(response.status)) return null;
  const asked = askedWait(response?.headers.get("retry-after"));
  if (asked > LONGEST_WAIT_MS) return null;
  return asked > 0 ? asked : Math.min(500 * 2 ** attempt, 8000) * (0.75 + Math.random() / 4);
}

/** @param {string | null} [value] seconds or a date */
function askedWait(value) {
  if (!value) return 0;
  const seconds = Number(value);
  return Number.isNaN(seconds) ? Date.parse(value) - Date.now() : 1000 * seconds;
}
