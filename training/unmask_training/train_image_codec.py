"""Trains the image tokenizer at small size: pixels -> bits -> pixels, with the lookup-free quantiser of MAGVIT-v2.

Loss: L1 on pixels and on their differences, plus the entropy and commitment terms of arXiv 2310.05737, section 3, plus
the meaning of the first bits (code_meaning.py).
"""

import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unmask_engine.codecs.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from unmask_training.code_meaning import CELLS, label_map, meaning_loss
from unmask_training.devices import CPU, device_of, full_precision, mixed
from unmask_training.loop import Schedule, Training
from unmask_training.render import render
from unmask_training.world import describable_scene, free_scene

CONFIG = ImageTokenizerConfig(channels=16, multipliers=(1, 2, 4, 4, 8), num_res_blocks=1, num_bits=12, norm_groups=8)
SIDE = 128
CROPPED = 0.65  # share of the time spent on crops
MEANING_WEIGHT = 0.5
FLIPPED = 0.01  # of the bits that the decoder gets: a drawn picture has a wrong code now and then
SOFT_STEPS = 900  # steps without quantisation; over as many again it sets in. Earlier, colours are never learnt


def pictures(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rendered scenes, half laid out and half free: uint8 (count, 3, SIDE, SIDE), and their label maps."""
    rng = random.Random(seed)
    drawn, labels = [], []
    for i in range(count):
        plain = describable_scene(rng)
        scene = plain if i % 4 < 2 else free_scene(rng)
        drawn.append(render(scene, SIDE, rng if i % 4 else None))
        labels.append(label_map(scene))
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).contiguous(), torch.stack(labels)


def codec_loss(
    model: ImageTokenizer, images: Tensor, labels: Tensor, entropy_weight: float, hardness: float = 1.0
) -> tuple[Tensor, dict[str, float]]:
    """Loss of a batch of images (B, 3, H, W) in [-1, 1] with labels (B, 2, h, w), and the numbers to log.

    `hardness` goes from 0 (bits are tanh of the latent) to 1 (bits are signs, gradients those of tanh).
    """
    device = device_of(model)
    images, labels = images.to(device), labels.to(device)
    with mixed(device):
        latent = model.encode_latent(images)
    z = latent.float()
    hard = torch.where(z > 0, 1.0, -1.0)
    soft = torch.tanh(z)
    bits = soft + hardness * (hard - soft).detach()
    with mixed(device):
        decoded = model.decode_bits(torch.where(torch.rand_like(bits) < FLIPPED * hardness, -bits, bits))
    error = decoded.float() - images
    l1 = error.abs().mean()
    p = torch.sigmoid(2 * z).clamp(1e-4, 1 - 1e-4)  # probability that a bit is one
    sure = _bit_entropy(p).mean()
    varied = _bit_entropy(p.mean(dim=(0, 2, 3))).mean()
    commitment = F.mse_loss(z, hard)  # keeps the latent where tanh has a gradient
    meaning, shapes_told = meaning_loss(z, labels)
    loss = drawing_loss(decoded, images) + MEANING_WEIGHT * meaning
    loss = loss + entropy_weight * (hardness * sure - varied) + 0.05 * hardness * commitment
    psnr = -10 * torch.log10((error.detach().clamp(-2, 2) / 2).square().mean())
    numbers = {"l1": float(l1.detach()), "psnr": float(psnr), "bit_entropy": float(varied.detach())}
    return loss, {**numbers, "meaning": float(meaning.detach()), "shapes_told": shapes_told}


def drawing_loss(decoded: Tensor, images: Tensor) -> Tensor:
    """How far decoded pixels (B, 3, H, W) are from the images, outlines weighing most."""
    error = decoded.float() - images
    weight = pixel_weights(images)
    weighted = (weight * (error.abs() + 0.5 * error.square())).sum() / (3 * weight.sum())
    return weighted + 0.5 * (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean())


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
    """Which of the crops (N, 3, H, W) have the most to see, without their order."""
    return crops.float().std(dim=(2, 3)).amax(1).topk(count).indices


def _bit_entropy(p: Tensor) -> Tensor:
    return F.binary_cross_entropy(p, p, reduction="none")


def train(
    out: Path,
    minutes: float,
    seed: int = 0,
    batch: int = 8,
    start: Mapping[str, Tensor] | None = None,
    device: torch.device = CPU,
) -> ImageTokenizer:
    """Train for the given minutes and return the model; resumes from `out`.

    `start` are weights of an earlier tokenizer: those of the same shape are taken.
    """
    torch.manual_seed(seed)
    model = ImageTokenizer(CONFIG)  # channels_last would be slower: its GroupNorm backward is
    with torch.no_grad():  # blocks start near the identity
        for name, parameter in model.named_parameters():
            if name.endswith(("conv2.weight", "proj_out.weight")):
                parameter.mul_(0.1)
    same = {name: t for name, t in (start or {}).items() if t.shape == model.state_dict()[name].shape}
    model.load_state_dict(same, strict=False)
    model.to(device)
    training = Training(model, Schedule(minutes, 7e-4, betas=(0.9, 0.95), weight_decay=0.0, ema_decay=0.995), out)
    training.fresh_seed(seed)
    pool, label_maps = pictures(6000, seed + 1)
    cell, patch = SIDE // CELLS, CONFIG.factor * CELLS // SIDE  # pixels a cell, cells a patch

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        if training.elapsed < 60 * minutes * CROPPED:  # quarters of pictures: four times the steps a minute
            x, y = torch.randint(CELLS // 2 + 1, (2,)).tolist()
            size, chosen = CELLS // 2, torch.randint(len(pool), (4 * batch,))
        else:
            x, y, size, chosen = 0, 0, CELLS, torch.randint(len(pool), (batch,))
        crops = pool[chosen, :, y * cell : (y + size) * cell, x * cell : (x + size) * cell].to(device)
        labels = label_maps[chosen, :, y + patch // 2 : y + size : patch, x + patch // 2 : x + size : patch]
        labels = labels.to(device)
        if size < CELLS:
            busy = busiest(crops, 2 * batch)
            crops, labels = crops[busy], labels[busy]
        if step % 2:
            crops, labels = crops.flip(-1), labels.flip(-1)
        images = crops.float() / 127.5 - 1
        return codec_loss(model, images, labels, 0.02, min(1.0, max(0.0, (step - SOFT_STEPS) / SOFT_STEPS)))

    training.run(loss_of)
    training.use_ema()
    return model.eval()


def refine_decoder(model: ImageTokenizer, out: Path, minutes: float, seed: int = 0, batch: int = 8) -> None:
    """Train the decoder alone, in place: the codes of pictures stay what they are. Resumes from `out`."""
    torch.manual_seed(seed)
    device = device_of(model)
    model.encoder.requires_grad_(False)
    training = Training(model, Schedule(minutes, 5e-4, betas=(0.9, 0.95), weight_decay=0.0, ema_decay=0.995), out)
    training.fresh_seed(seed)
    pool, _ = pictures(5000, seed + 2)
    with torch.no_grad(), full_precision():
        codes = torch.cat([model.encode(part.to(device).float() / 127.5 - 1).cpu() for part in torch.split(pool, 16)])

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        chosen = torch.randint(len(pool), (batch,))
        bits = model.quantize.bits(codes[chosen].to(device))
        with mixed(device):
            decoded = model.decode_bits(torch.where(torch.rand_like(bits) < FLIPPED, -bits, bits))
        images = pool[chosen].to(device).float() / 127.5 - 1
        error = (decoded.detach().float() - images).clamp(-2, 2) / 2
        return drawing_loss(decoded, images), {"psnr": float(-10 * torch.log10(error.square().mean()))}

    training.run(loss_of)
    training.use_ema()
    model.eval()
