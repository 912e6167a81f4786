/** Base64, PCM and Blobs. */

const CHUNK = 0x8000; // arguments that one call may have

/** @param {Uint8Array} bytes */
export function toBase64(bytes) {
  let binary = "";
  for (let start = 0; start < bytes.length; start += CHUNK) {
    binary += String.fromCharCode(...bytes.subarray(start, start + CHUNK));
  }
  return btoa(binary);
}

/** @param {string} text */
export function fromBase64(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

/** s16le as base64, of samples from -1 to 1 or of 16 bits. @param {Float32Array | Int16Array} samples */
export function pcmToBase64(samples) {
  const view = new DataView(new ArrayBuffer(2 * samples.length));
  const scale = samples instanceof Float32Array ? 32767 : 1;
  samples.forEach((sample, index) => {
    const bounded = Math.max(-32768, Math.min(32767, Math.round(sample * scale)));
    view.setInt16(2 * index, bounded, true);
  });
  return toBase64(new Uint8Array(view.buffer));
}

/** Samples from -1 to 1, which is what Web Audio takes. @param {string} text s16le as base64 */
export function pcmFromBase64(text) {
  const view = new DataView(fromBase64(text).buffer);
  return Float32Array.from({ length: view.byteLength >> 1 }, (_, index) => view.getInt16(2 * index, true) / 32768);
}

/** @param {string} data @param {"image" | "audio"} type @param {string} format */
export function blobOf(data, type, format) {
  const names = { mp3: "mpeg", opus: "ogg" };
  return new Blob([fromBase64(data)], { type: `${type}/${names[format] ?? format}` });
}

/** A part of a request. @param {string | Blob} source text, or a Blob whose type is image/... or audio/... */
export async function partOf(source) {
  if (typeof source === "string") return { type: "text", text: source };
  const type = source.type.split("/")[0];
  if (type !== "image" && type !== "audio") {
    throw new TypeError(`a Blob must say what it is: image/... or audio/..., not "${source.type}"`);
  }
  return { type, data: await base64OfBlob(source) };
}

/** @param {Blob} blob */
export async function base64OfBlob(blob) {
  return toBase64(new Uint8Array(await blob.arrayBuffer()));
}
