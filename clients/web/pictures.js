/** Pictures on their way in: of any size and format that the browser reads, as a PNG of moderate size. */

import { h } from "./dom.js";

const MAX_SIDE = 1024; // models look at far fewer pixels

/** @param {Blob} file */
export async function readPicture(file) {
  const bitmap = await createImageBitmap(file).catch(() => {
    throw new Error(`"${file.name ?? "This file"}" is not a picture that this browser can read.`);
  });
  const scale = Math.min(1, MAX_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = h("canvas", { width: Math.round(bitmap.width * scale), height: Math.round(bitmap.height * scale) });
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return pngOf(canvas);
}

/** @param {HTMLCanvasElement} canvas */
export function pngOf(canvas) {
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/** A photo from the camera, or null if none was taken. */
export async function takePhoto() {
  const stream = await navigator.mediaDevices?.getUserMedia({ video: { facingMode: "environment" } }).catch(() => null);
  if (!stream) throw new Error("No camera could be opened. The browser may have been told not to, or this page is not on https or localhost.");
  try {
    return await photoDialog(stream);
  } finally {
    for (const track of stream.getTracks()) track.stop();
  }
}

async function photoDialog(stream) {
  const video = h("video", { playsinline: true, "aria-label": "What the camera sees" });
  video.muted = true;
  video.srcObject = stream;
  const dialog = h("dialog", { class: "photo", "aria-label": "Take a photo" });
  const take = h("button", { type: "button", class: "primary", disabled: true, onclick: () => dialog.close("take") }, "Take it");
  dialog.append(video, h("div", { class: "ends" }, h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"), take));
  document.body.append(dialog);
  dialog.showModal();
  video.addEventListener("playing", () => (take.disabled = false)); // before that there is no picture to take
  video.play().catch(() => {}); // is cut off where the dialog is cancelled first
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  dialog.remove();
  if (dialog.returnValue !== "take") return null;
  const canvas = h("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  return readPicture(await pngOf(canvas));
}
