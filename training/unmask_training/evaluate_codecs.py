"""What the codecs alone lose, without the backbone: the bound of everything that it draws and says."""

from typing import cast

import numpy as np
import soxr
import torch
from numpy.typing import NDArray

from unmask_engine.codecs.image_pixels import prepare, to_pixels
from unmask_engine.codecs.speech_tokenizer import SpeechTokenizer
from unmask_engine.components import load_component
from unmask_training.examiner import Examiner, mean
from unmask_training.listeners import content_words, sphinx_hears, word_error_rate
from unmask_training.render import render
from unmask_training.scene_reader import names_right
from unmask_training.voices import SPEAKING_VOICE, Delivery, record
from unmask_training.world import describable_scene

_SSIM_SIGMA, _SSIM_REACH = 1.5, 3.5  # a Gaussian window of 11 x 11


@torch.inference_mode()
def image_codec(examiner: Examiner) -> dict[str, float]:
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
        "image codec PSNR": float(np.mean(psnrs)),
        "image codec SSIM": float(np.mean(ssims)),
        "image codec, shapes and colours right": mean(right),
    }


@torch.inference_mode()
def speech_codec(examiner: Examiner) -> dict[str, float]:
    """Running speech of the speaking voice as codes and back, as pocketsphinx hears it."""
    loaded = examiner.engine.bundle
    tokenizer = cast(SpeechTokenizer, load_component(examiner.bundle, "speech_tokenizer", dtype=torch.float32))
    decoder = loaded.speech_codec
    assert decoder is not None
    rng, lexicon = examiner.rng("speech codec"), content_words()
    before, after = [], []
    for _ in range(examiner.samples):
        text = " ".join(rng.choice(lexicon) for _ in range(rng.randint(3, 6)))
        samples = record(text, Delivery(SPEAKING_VOICE), 22_050)
        wide = soxr.resample(samples, 22_050, tokenizer.config.sample_rate).astype(np.float32)
        made = decoder.decode(tokenizer.encode(torch.from_numpy(wide)).to(loaded.device), 0).cpu().numpy()
        before.append((text, sphinx_hears(samples, 22_050)))
        after.append((text, sphinx_hears(made, decoder.sample_rate)))
    return {
        "speech codec alone, pocketsphinx WER": word_error_rate(after),
        "(the same speech before it, pocketsphinx WER)": word_error_rate(before),
    }


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
