/** Runs on the audio thread: hands the microphone's samples to the page, 20 ms at a time. */

const PIECE_S = 0.02;

class Capture extends AudioWorkletProcessor {
  #piece = new Float32Array(Math.round(sampleRate * PIECE_S));
  #filled = 0;

  process([[channel]]) {
    for (const sample of channel ?? []) {
      this.#piece[this.#filled++] = sample;
      if (this.#filled === this.#piece.length) {
        this.port.postMessage(this.#piece);
        this.#piece = new Float32Array(this.#piece.length);
        this.#filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("capture", Capture);
