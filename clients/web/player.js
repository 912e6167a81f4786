/** Plays sound while it arrives: each piece is queued behind the one before. */

const LEAD_S = 0.08; // before the first piece, so that the next one is there in time

export class Player {
  #context = null;
  #sources = new Set();
  #endsAt = 0;
  #beganAt = 0;
  #queuedS = 0;

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
    if (this.#endsAt <= now) {
      this.#endsAt = now + LEAD_S;
      if (!this.#queuedS) this.#beganAt = this.#endsAt;
    }
    source.start(this.#endsAt);
    this.#endsAt += buffer.duration;
    this.#queuedS += buffer.duration;
    this.#sources.add(source);
    source.onended = () => this.#sources.delete(source);
  }

  get isPlaying() {
    return this.#sources.size > 0;
  }

  /** Seconds of what was added since the last stop that have been heard. */
  get playedS() {
    const passed = this.#context ? this.#context.currentTime - this.#beganAt : 0;
    return Math.max(0, Math.min(this.#queuedS, passed));
  }

  /** Silence at once, and a new beginning. */
  stop() {
    for (const source of this.#sources) source.stop();
    this.#sources.clear();
    this.#endsAt = this.#queuedS = 0;
  }
}
