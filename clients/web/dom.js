/** Elements in one expression. */

/** @param {string} tag @param {object} [props] attributes; `on...` are listeners, null and false are left out */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === false || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Says something to screen readers alone. @param {string} text */
export function announce(text) {
  document.getElementById("live").textContent = text;
}

/** An object URL that lasts as long as the page: answers stay on it. @param {Blob} blob */
export function urlOf(blob) {
  if (!urls.has(blob)) urls.set(blob, URL.createObjectURL(blob));
  return urls.get(blob);
}
const urls = new WeakMap();

/** A custom property of the theme, for canvases. @param {string} name */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** Sizes a canvas to its box in device pixels; -> its context, scaled to CSS pixels, and its size in these. */
export function fitted(canvas) {
  const { width, height } = canvas.getBoundingClientRect();
  const ratio = window.devicePixelRatio;
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  return { context, width, height };
}

export const isStill = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
