"""What tests need and what others may reuse: the weight recipes of the golden vectors (tests/golden/README.md)."""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def dream_weights(shapes: Mapping[str, Sequence[int]], seed: int = 20240, lm_gain: float = 4.0) -> dict[str, Tensor]:
    """Deterministic float32 weights for backbone, speech encoder and image tokenizer, by name and shape.

    `quantize.*` buffers are left out: the recipe does not touch them.
    """
    return {
        name: _dream_tensor(name, tuple(shape), seed, lm_gain)
        for name, shape in shapes.items()
        if not name.startswith("quantize.")
    }


def _dream_tensor(name: str, shape: tuple[int, ...], seed: int, lm_gain: float) -> Tensor:
    gauss = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape)
    if name.endswith(("embed_tokens.weight", "audio_model.model.embed.weight")):
        weight = gauss
    elif name.endswith("lm_head.weight"):
        weight = lm_gain / np.sqrt(shape[1]) * gauss
    elif len(shape) == 1 and name.endswith(".weight"):
        weight = 1 + 0.1 * gauss
    elif name.endswith(".bias"):
        weight = 0.1 * gauss
    elif name.endswith("fsmn_block.weight"):
        weight = 0.2 * gauss
    else:
        weight = gauss / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(weight.astype(np.float32))


def speech_weights(shapes: Mapping[str, Sequence[int]], seed: int = 20250601) -> dict[str, Tensor]:
    """Deterministic float32 weights for speech decoder, vocoder and speech tokenizer, by name and shape."""
    return {name: _speech_tensor(name, tuple(shape), seed) for name, shape in shapes.items()}


def _speech_tensor(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    n = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape, dtype=np.float32)
    fan = float(np.prod(shape[1:]))
    if name.endswith(".weight_g"):
        weight = 1 + 0.1 * n
        if name.startswith("conv_post"):
            weight = 0.3 * weight
    elif name.endswith(".alpha"):
        weight = 1 + 0.1 * n
    elif name == "f0_predictor.classifier.weight":
        weight = 120 * n / np.sqrt(fan)
    elif name == "f0_predictor.classifier.bias":
        weight = np.full_like(n, 60)
    elif (len(shape) == 1 and name.endswith(".weight")) or name == "ema_count":
        weight = 1 + 0.1 * n
    elif len(shape) == 1:
        weight = 0.02 * n
    elif name == "conv1.weight":
        weight = 3 * n / np.sqrt(fan)
    else:
        weight = n / np.sqrt(fan)
    return torch.from_numpy(weight.astype(np.float32))
