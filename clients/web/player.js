/** Plays sound while it arrives: each piece is queued behind the one before. */

const LEAD_S = 0.08; // before the first piece, so that the next one is there in time

export class Player {
  #context = null;
  #pieces = new Map(); // those that have not ended: source -> when it begins, and for how long
  #endsAt = 0;
  #endedS = 0; // of sound that was played to its end
  #onSilence;

  /** @param {() => void} onSilence all that was added has been played */
  constructor(onSilence = () => {}) {
    this.#onSilence = onSilence;
  }

  /** Browsers let sound begin only where the user has done something: call this in a handler. */
  async unlock() {
    this.#context ??= new AudioContext();
    await this.#context.resume();
  }

  /** @param {Float32Array} samples @param {number} rate */
  add(samples, rate) {
    this.#context ??= new AudioContext();
    const buffer = this.#context.createBuffer(1, samples.length, rate);
    buffer.copyToChannel(samples, 0);
    const source = this.#context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.#context.destination);
    const now = this.#context.currentTime;
    if (this.#endsAt <= now) this.#endsAt = now + LEAD_S;
    source.start(this.#endsAt);
    this.#pieces.set(source, { beginsAt: this.#endsAt, durationS: buffer.duration });
    this.#endsAt += buffer.duration;
    source.onended = () => this.#ended(source, buffer.duration);
  }

  get isPlaying() {
    return this.#pieces.size > 0;
  }

  /** Seconds of what was added since the last stop that have been heard; pauses for want of sound do not count. */
  get playedS() {
    const now = this.#context?.currentTime ?? 0;
    const begun = [...this.#pieces.values()].map(({ beginsAt, durationS }) => Math.max(0, Math.min(durationS, now - beginsAt)));
    return begun.reduce((sum, seconds) => sum + seconds, this.#endedS);
  }

  /** Silence at once, and a new beginning. */
  stop() {
    for (const source of this.#pieces.keys()) source.stop();
    this.#pieces.clear();
    this.#endsAt = this.#endedS = 0;
  }

  /** Stops, and frees the sound device. */
  close() {
    this.stop();
    this.#context?.close();
    this.#context = null;
  }

  #ended(source, durationS) {
    if (!this.#pieces.delete(source)) return; // stopped
    this.#endedS += durationS;
    if (!this.isPlaying) this.#onSilence();
  }
}
