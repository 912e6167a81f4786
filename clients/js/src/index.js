export { UnmaskClient } from "./client.js";
export { UnmaskError } from "./errors.js";
export { RealtimeSession, SAMPLE_RATE } from "./realtime.js";
