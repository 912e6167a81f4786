"""Recordings of the world's sentences: espeak-ng and flite voices for listening, flite rms for speaking."""

import io
import random
import subprocess
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from unmask_training.spread import spread

SPEAKING_VOICE = "rms"  # by far the clearest to an independent recogniser
_ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-gb-x-gbclan", "en-us-nyc")
_SPEAKERS = (
    *("", "+m1", "+m2", "+m3", "+m5", "+m6", "+m7", "+m8", "+f1", "+f2", "+f4", "+f5", "+klatt2", "+klatt4"),
    *("+Andy", "+Annie", "+Linda", "+Denis", "+Gene", "+Hugo", "+Lee", "+Mike", "+adam", "+boris", "+steph"),
)
ESPEAK_VOICES = tuple(f"{accent}{speaker}" for accent in _ACCENTS for speaker in _SPEAKERS)
FLITE_VOICES = ("rms", "slt", "awb", "kal16")
# Two speakers and an accent; flite's kal is no third speaker: it is kal16 at 8 kHz.
HELD_OUT_VOICES = ("en-gb+m4", "en-us+f3", "en-gb-x-gbcwmd+m4")

_ECHOING = 0.5  # share of the recordings that are heard in a room with echoes


@dataclass(frozen=True)
class Delivery:
    """How a sentence is said; `speed` and `pitch` are factors around the voice's own."""

    voice: str
    speed: float = 1.0
    pitch: float = 1.0


def any_delivery(rng: random.Random) -> Delivery:
    """A listening voice: two of three times espeak-ng, else flite, at 0.8-1.25 of its speed and pitch."""
    voice = rng.choice(ESPEAK_VOICES) if rng.random() < 0.6 else rng.choice(FLITE_VOICES)
    return Delivery(voice, round(rng.uniform(0.8, 1.25), 2), round(rng.uniform(0.8, 1.25), 2))


def _command(text: str, how: Delivery) -> list[str]:
    if how.voice in FLITE_VOICES:
        mean_f0 = {"rms": 95, "slt": 170, "awb": 120, "kal16": 105}[how.voice] * how.pitch
        settings = ["--setf", f"duration_stretch={1 / how.speed:.3f}"]
        if how.pitch != 1.0:
            settings += ["--setf", f"int_f0_target_mean={mean_f0:.0f}"]
        return ["flite", "-voice", how.voice, *settings, "-t", text, "-o", "/dev/stdout"]
    return [
        "espeak-ng",
        "-v",
        how.voice,
        "-s",
        f"{160 * how.speed:.0f}",
        "-p",
        f"{50 * how.pitch:.0f}",
        "--stdout",
        text,
    ]


def record(text: str, how: Delivery, sample_rate: int) -> NDArray[np.float32]:
    """Speak a text: (T,) float32 at the rate asked for, peak 0.5."""
    wav = bytearray(subprocess.run(_command(text, how), check=True, capture_output=True).stdout)
    size = len(wav) - 44
    wav[4:8], wav[40:44] = (size + 36).to_bytes(4, "little"), size.to_bytes(4, "little")  # pipes leave sizes unset
    samples, rate = soundfile.read(io.BytesIO(bytes(wav)), dtype="float32")
    samples = soxr.resample(samples, rate, sample_rate, quality="HQ").astype(np.float32)
    peak = float(np.abs(samples).max()) or 1.0
    return np.asarray(samples * (0.5 / peak), dtype=np.float32)


def trimmed(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Without the silence around it, softly: what a voice adds before and after a word."""
    loud = np.flatnonzero(np.convolve(samples**2, np.ones(200) / 200, "same") > 3e-6)
    return samples[max(0, loud[0] - 200) : loud[-1] + 600] if len(loud) else samples


def record_apart(text: str, how: Delivery, sample_rate: int, gaps: list[float]) -> NDArray[np.float32]:
    """The words said one by one, each followed by its gap of silence in seconds."""
    parts = []
    for word, gap in zip(text.split(), gaps, strict=True):
        parts += [trimmed(record(word, how, sample_rate)), np.zeros(round(gap * sample_rate), np.float32)]
    return np.concatenate(parts)


def record_all(texts: list[str], deliveries: list[Delivery], sample_rate: int) -> list[NDArray[np.int16]]:
    """Many recordings, as int16 to keep them small."""

    def one(job: tuple[str, Delivery]) -> NDArray[np.int16]:
        return (record(job[0], job[1], sample_rate) * 32767).astype(np.int16)

    return spread(one, list(zip(texts, deliveries, strict=True)))


def add_room(samples: NDArray[np.float32], rng: np.random.Generator, rate: int = 16_000) -> NDArray[np.float32]:
    """Gain, light noise and silence around a recording, as a microphone adds them, half of the time with echoes."""
    lead, tail = rng.integers(0, 3200, 2)
    padded = np.pad(samples, (int(lead), int(tail)))
    gain = 10 ** rng.uniform(-0.6, 0.25)
    noise = 10 ** rng.uniform(-4.0, -2.0)
    if rng.random() < _ECHOING:
        padded = reverberant(padded, rng.uniform(0.1, 0.5), rng.uniform(0.05, 0.5), rng, rate)
    return np.asarray(np.clip(padded * gain + rng.normal(0, noise, padded.shape), -1, 1), dtype=np.float32)


def reverberant(
    samples: NDArray[np.float32], decay_s: float, echoes: float, rng: np.random.Generator, rate: int = 16_000
) -> NDArray[np.float32]:
    """As heard in a room: noise that falls by 60 dB in `decay_s` stands for its walls (Moorer 1979).

    `echoes` is their energy beside that of the direct sound. As long and, over a long sound, as loud as before.
    """
    count = max(2, round(decay_s * rate))
    walls = rng.standard_normal(count) * 10 ** (-3 * np.arange(count) / count)
    walls[0] = 0
    walls *= np.sqrt(echoes / np.square(walls).sum())
    walls[0] = 1
    size = 1 << (len(samples) + count).bit_length()
    wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(walls, size), size)[: len(samples)]
    return np.asarray(wet / np.sqrt(1 + echoes), dtype=np.float32)
