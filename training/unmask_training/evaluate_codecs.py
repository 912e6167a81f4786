"""What the codecs alone lose, without the backbone: the bound of everything that it draws and says."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import soxr
import torch
from numpy.typing import NDArray

from unmask_engine.codecs.image_pixels import prepare, to_pixels
from unmask_engine.codecs.mel import log_mel
from unmask_engine.codecs.speech_tokenizer import SpeechTokenizer
from unmask_engine.components import load_component
from unmask_training.examiner import Examiner, Measure, Measures, error_rate, share
from unmask_training.listeners import content_words, new_words, sphinx_hears_all
from unmask_training.render import render
from unmask_training.scene_reader import names_right
from unmask_training.voices import SPEAKING_VOICE, Delivery, record_all
from unmask_training.world import describable_scene

_VOICE_RATE = 22_050
_SSIM_SIGMA, _SSIM_REACH = 1.5, 3.5  # a Gaussian window of 11 x 11


@torch.inference_mode()
def image_codec(examiner: Examiner) -> Measures:
    """Pictures put through the image tokenizer and back."""
    codec, side = examiner.engine.bundle.image_codec, examiner.bundle.media.image_output_size
    assert codec is not None
    rng = examiner.rng("image codec")
    psnrs, ssims, right = [], [], []
    for _ in range(examiner.samples):
        scene = describable_scene(rng)
        pixels = prepare(render(scene, side, rng), side)[None].to(examiner.engine.bundle.device)
        true, made = to_pixels(pixels)[0], to_pixels(codec.decode(codec.encode(pixels)))[0]
        psnrs.append(psnr(true, made))
        ssims.append(ssim(true, made))
        right.append(names_right(scene, made))
    return {
        "image codec PSNR": Measure(float(np.mean(psnrs)), len(psnrs)),
        "image codec SSIM": Measure(float(np.mean(ssims)), len(ssims)),
        "image codec, shapes and colours right": share(right),
    }


@torch.inference_mode()
def speech_codec(examiner: Examiner) -> Measures:
    """Running speech of the speaking voice as codes and back: as pocketsphinx hears it, and how far its mels are off.

    Once of words that training said, once of words that it never did, each with a grammar of its own.
    """
    found, distances = {}, []
    for name, lexicon in (("", content_words()), (", words never trained", new_words())):
        rng = examiner.rng(f"speech codec{name}")
        texts = [
            " ".join(rng.choice(lexicon) for _ in range(rng.randint(3, 6))) for _ in range(examiner.spoken_samples)
        ]
        waves = record_all(texts, [Delivery(SPEAKING_VOICE)] * len(texts), _VOICE_RATE)
        before = [(w / np.float32(32767)).astype(np.float32) for w in waves]
        after = resynthesised(examiner, before)
        distances += [mel_distance(a, b) for a, b in zip(before, after, strict=True)]
        heard = sphinx_hears_all([(samples, _VOICE_RATE) for samples in (*after, *before)], lexicon)
        made, source = heard[: len(texts)], heard[len(texts) :]
        found[f"speech codec alone{name}, pocketsphinx WER"] = error_rate(list(zip(texts, made, strict=True)))
        found[f"(the same speech before it{name}, pocketsphinx WER)"] = error_rate(
            list(zip(texts, source, strict=True))
        )
    return found | {"speech codec, log-mel distance": Measure(float(np.mean(distances)), len(distances))}


def resynthesised(examiner: Examiner, recordings: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """Recordings at the voice's rate as codes and back."""
    loaded = examiner.engine.bundle
    tokenizer = cast(SpeechTokenizer, load_component(examiner.bundle, "speech_tokenizer", dtype=torch.float32))
    decoder = loaded.speech_codec
    assert decoder is not None
    made = []
    for samples in recordings:
        wide = soxr.resample(samples, _VOICE_RATE, tokenizer.config.sample_rate).astype(np.float32)
        codes = tokenizer.encode(torch.from_numpy(wide)).to(loaded.device)
        out = decoder.decode(codes, 0).cpu().numpy()
        rate = decoder.sample_rate
        made.append(out if rate == _VOICE_RATE else soxr.resample(out, rate, _VOICE_RATE).astype(np.float32))
    return made


def mel_distance(true: NDArray[np.float32], made: NDArray[np.float32]) -> float:
    """Mean absolute difference of the natural logarithms of the mels, over the time that both have."""
    count = min(len(true), len(made))
    a, b = (log_mel(torch.from_numpy(samples[:count].astype(np.float32))[None]) for samples in (true, made))
    return float((a - b).abs().mean())


def psnr(true: NDArray[np.uint8], made: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB, at most 100."""
    error = float(np.mean((true.astype(np.float64) - made) ** 2))
    return min(100.0, 10 * float(np.log10(255**2 / max(error, 1e-12))))


def ssim(true: NDArray[np.uint8], made: NDArray[np.uint8]) -> float:
    """Structural similarity of the grey pictures (Wang et al. 2004: K1 0.01, K2 0.03, Gaussian window)."""
    from scipy.ndimage import gaussian_filter

    def local(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(gaussian_filter(values, _SSIM_SIGMA, truncate=_SSIM_REACH))

    x, y = (picture.astype(np.float64) @ (0.299, 0.587, 0.114) for picture in (true, made))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mx, my = local(x), local(y)
    vx, vy, cov = local(x * x) - mx * mx, local(y * y) - my * my, local(x * y) - mx * my
    likeness = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return float(likeness.mean())
