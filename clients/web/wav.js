/** Sound as numbers. */

/** A recording as a file. @param {Float32Array[]} pieces mono, from -1 to 1 @param {number} rate Hz */
export function wavOf(pieces, rate) {
  const length = pieces.reduce((sum, piece) => sum + piece.length, 0);
  const view = new DataView(new ArrayBuffer(44 + 2 * length));
  const write = (at, text) => [...text].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  write(0, "RIFF");
  view.setUint32(4, 36 + 2 * length, true);
  write(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // mono
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  write(36, "data");
  view.setUint32(40, 2 * length, true);
  let at = 44;
  for (const piece of pieces) {
    for (const sample of piece) {
      view.setInt16(at, Math.max(-1, Math.min(1, sample)) * 32767, true);
      at += 2;
    }
  }
  return new Blob([view.buffer], { type: "audio/wav" });
}

/** The loudest sample of each of so many equal parts. @param {Float32Array} samples @param {number} count */
export function peaksOf(samples, count) {
  return Float32Array.from({ length: count }, (_, index) => {
    const start = Math.floor((index * samples.length) / count);
    const end = Math.max(start + 1, Math.floor(((index + 1) * samples.length) / count));
    let peak = 0;
    for (let at = start; at < end && at < samples.length; at++) peak = Math.max(peak, Math.abs(samples[at]));
    return peak;
  });
}

/** From one rate to a lower one, piece by piece: each new sample is the mean of those it covers. */
export class Downsampler {
  #ratio;
  #rest = new Float32Array(0);
  #offset = 0; // into the rest, of the next sample

  constructor(from, to) {
    this.#ratio = from / to;
  }

  /** @param {Float32Array} piece */
  feed(piece) {
    const samples = new Float32Array(this.#rest.length + piece.length);
    samples.set(this.#rest);
    samples.set(piece, this.#rest.length);
    const made = [];
    let start = this.#offset;
    for (; start + this.#ratio <= samples.length; start += this.#ratio) {
      const end = Math.max(Math.floor(start) + 1, Math.floor(start + this.#ratio));
      let sum = 0;
      for (let at = Math.floor(start); at < end; at++) sum += samples[at];
      made.push(sum / (end - Math.floor(start)));
    }
    this.#rest = samples.slice(Math.floor(start));
    this.#offset = start - Math.floor(start);
    return Float32Array.from(made);
  }
}
