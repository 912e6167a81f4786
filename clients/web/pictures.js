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
  const video = h("video", { playsinline: true, "aria-label": "What the camera sees" });
  video.muted = true;
  video.srcObject = stream;
  await video.play();
  const dialog = h("dialog", { class: "photo", "aria-label": "Take a photo" });
  const close = (value) => () => dialog.close(value);
  dialog.append(
    video,
    h("div", { class: "ends" },
      h("button", { type: "button", onclick: close("") }, "Cancel"),
      h("button", { type: "button", class: "primary", onclick: close("take") }, "Take it"),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  let photo = null;
  if (dialog.returnValue === "take") {
    const canvas = h("canvas", { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    photo = await readPicture(await pngOf(canvas));
  }
  for (const track of stream.getTracks()) track.stop();
  dialog.remove();
  return photo;
}
