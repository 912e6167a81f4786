/** The microphone as pieces of samples. */

import { wavOf } from "./wav.js";

export class Microphone {
  #stream;
  #context;

  /** @param {(samples: Float32Array, rate: number) => void} onPiece 20 ms each, mono */
  static async open(onPiece) {
    if (!navigator.mediaDevices) {
      throw new Error("Browsers give the microphone to pages on https or localhost alone; open this one there.");
    }
    const microphone = new Microphone();
    microphone.#stream = await navigator.mediaDevices
      .getUserMedia({ audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true } })
      .catch(refused);
    microphone.#context = new AudioContext();
    await microphone.#context.audioWorklet.addModule(new URL("capture-worklet.js", import.meta.url));
    const capture = new AudioWorkletNode(microphone.#context, "capture", { numberOfOutputs: 0, channelCount: 1 });
    capture.port.onmessage = ({ data }) => onPiece(data, microphone.rate);
    microphone.#context.createMediaStreamSource(microphone.#stream).connect(capture);
    await microphone.#context.resume();
    return microphone;
  }

  get rate() {
    return this.#context.sampleRate;
  }

  close() {
    for (const track of this.#stream.getTracks()) track.stop();
    this.#context.close();
  }
}

/** One recording, for a single request. */
export class Recorder {
  #pieces = [];
  #microphone;

  /** @param {(samples: Float32Array) => void} onPiece of what is recorded */
  static async start(onPiece) {
    const recorder = new Recorder();
    recorder.#microphone = await Microphone.open((samples) => {
      recorder.#pieces.push(samples);
      onPiece(samples);
    });
    return recorder;
  }

  /** @returns {Blob} a WAV file */
  stop() {
    this.#microphone.close();
    return wavOf(this.#pieces, this.#microphone.rate);
  }
}

/** How loud, from 0 to 1, as ears judge it rather than as numbers do. @param {Float32Array} samples */
export function levelOf(samples) {
  const power = samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length;
  return Math.max(0, Math.min(1, 1 + Math.log10(power + 1e-9) / 5));
}

function refused(error) {
  const messages = {
    NotAllowedError: "The browser was not allowed to use the microphone. Allow it in the address bar, then try again.",
    NotFoundError: "No microphone was found.",
  };
  throw new Error(messages[error.name] ?? `The microphone cannot be used: ${error.message}`);
}
