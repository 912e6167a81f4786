"""Trains the image tokenizer at small size: pixels -> bits -> pixels, with the lookup-free quantiser of MAGVIT-v2.

Loss: L1 on pixels and on their differences, plus the entropy and commitment terms of arXiv 2310.05737, section 3.
"""

import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unmask_engine.codecs.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from unmask_training.loop import Schedule, Training
from unmask_training.render import render
from unmask_training.world import describable_scene, free_scene

CONFIG = ImageTokenizerConfig(channels=16, multipliers=(1, 2, 4, 4, 8), num_res_blocks=1, num_bits=11, norm_groups=8)
SIDE = 128
CROPPED = 0.65  # share of the time spent on crops
SOFT_STEPS = 900  # steps without quantisation; over as many again it sets in. Earlier, colours are never learnt


def pictures(count: int, seed: int) -> Tensor:
    """Rendered scenes, half laid out and half free: uint8 (count, 3, SIDE, SIDE)."""
    rng = random.Random(seed)
    drawn = []
    for i in range(count):
        plain = describable_scene(rng)
        drawn.append(render(plain, SIDE) if i % 4 == 0 else render(plain if i % 4 == 1 else free_scene(rng), SIDE, rng))
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).contiguous()


def codec_loss(
    model: ImageTokenizer, images: Tensor, entropy_weight: float, hardness: float = 1.0
) -> tuple[Tensor, dict[str, float]]:
    """Loss of a batch of images (B, 3, H, W) in [-1, 1], and the numbers to log.

    `hardness` goes from 0 (bits are tanh of the latent) to 1 (bits are signs, gradients those of tanh).
    """
    with torch.autocast("cpu", torch.bfloat16):
        latent = model.encode_latent(images)
    z = latent.float()
    hard = torch.where(z > 0, 1.0, -1.0)
    soft = torch.tanh(z)
    with torch.autocast("cpu", torch.bfloat16):
        decoded = model.decode_bits(soft + hardness * (hard - soft).detach())
    error = decoded.float() - images
    l1 = error.abs().mean()
    weight = pixel_weights(images)
    weighted = (weight * (error.abs() + 0.5 * error.square())).sum() / (3 * weight.sum())
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    p = torch.sigmoid(2 * z).clamp(1e-4, 1 - 1e-4)  # probability that a bit is one
    sure = _bit_entropy(p).mean()
    varied = _bit_entropy(p.mean(dim=(0, 2, 3))).mean()
    commitment = F.mse_loss(z, hard)  # keeps the latent where tanh has a gradient
    loss = weighted + 0.5 * edges + entropy_weight * (hardness * sure - varied) + 0.05 * hardness * commitment
    psnr = -10 * torch.log10((error.detach().clamp(-2, 2) / 2).square().mean())
    return loss, {"l1": float(l1.detach()), "psnr": float(psnr), "bit_entropy": float(varied.detach())}


def pixel_weights(images: Tensor) -> Tensor:
    """(B, 1, H, W). Things cover a tenth of a picture and their outlines, which say what they are, far less.

    What differs from the picture's median counts five times, what lies near an outline twenty times more.
    """
    median = images.flatten(2).median(-1).values[:, :, None, None]
    thing = (images - median).abs().amax(1, keepdim=True) > 0.3
    spread = F.max_pool2d(images, 3, 1, 1) + F.max_pool2d(-images, 3, 1, 1)
    outline = F.max_pool2d((spread.amax(1, keepdim=True) > 0.35).float(), 3, 1, 1)
    return 1 + 4 * thing + 20 * outline


def busiest(crops: Tensor, count: int) -> Tensor:
    """The crops (N, 3, H, W) with the most to see, without their order."""
    return crops[crops.float().std(dim=(2, 3)).amax(1).topk(count).indices]


def _bit_entropy(p: Tensor) -> Tensor:
    return F.binary_cross_entropy(p, p, reduction="none")


def train(out: Path, minutes: float, seed: int = 0, batch: int = 8) -> ImageTokenizer:
    """Train for the given minutes and return the model; resumes from `out`."""
    torch.manual_seed(seed)
    model = ImageTokenizer(CONFIG)  # channels_last would be slower: its GroupNorm backward is
    with torch.no_grad():  # blocks start near the identity
        for name, parameter in model.named_parameters():
            if name.endswith(("conv2.weight", "proj_out.weight")):
                parameter.mul_(0.1)
    training = Training(model, Schedule(minutes, 7e-4, betas=(0.9, 0.95), weight_decay=0.0, ema_decay=0.995), out)
    pool = pictures(6000, seed + 1)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        if training.elapsed < 60 * minutes * CROPPED:  # quarters of pictures: four times the steps a minute
            x, y = torch.randint(SIDE // 2 + 1, (2,)).tolist()
            crops = pool[torch.randint(len(pool), (4 * batch,)), :, y : y + SIDE // 2, x : x + SIDE // 2]
            chosen = busiest(crops, 2 * batch)
        else:
            chosen = pool[torch.randint(len(pool), (batch,))]
        if step % 2:
            chosen = chosen.flip(-1)
        images = chosen.float() / 127.5 - 1
        return codec_loss(model, images, 0.02, min(1.0, max(0.0, (step - SOFT_STEPS) / SOFT_STEPS)))

    training.run(loss_of)
    training.use_ema()
    return model.eval()
