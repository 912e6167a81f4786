"""The image tokenizer against the reference's vectors (full size, slow) and its properties (tiny, always)."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unmask_engine.codecs.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from unmask_engine.testing import dream_weights

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "dream_golden.json").read_text())["magvit"]
KEYS = json.loads((GOLDEN / "magvitv2_keys.json").read_text())
TINY = ImageTokenizerConfig(channels=8, multipliers=(1, 2, 2), num_res_blocks=1, num_bits=5, norm_groups=4)
LATENT_TOLERANCE = 2e-5  # measured 2.8e-6 on CPU
PIXEL_TOLERANCE = 1e-4  # measured 1.6e-5 on CPU, of pixels up to 3.4


def golden(name: str) -> Tensor:
    with np.load(GOLDEN / "dream_golden.npz") as arrays:
        return torch.from_numpy(arrays[f"magvit/{name}"])


@pytest.fixture(scope="module")
def tiny() -> ImageTokenizer:
    model = ImageTokenizer(TINY)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict(dream_weights(shapes), strict=False)
    return model.eval()


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_names_and_shapes_are_the_checkpoints() -> None:
    with torch.device("meta"):
        state = ImageTokenizer(ImageTokenizerConfig()).state_dict()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == KEYS


def test_one_number_of_blocks_holds_for_every_resolution() -> None:
    config = ImageTokenizerConfig(multipliers=(1, 2, 2), num_res_blocks=2)
    assert config.encoder_blocks == config.decoder_blocks == (2, 2, 2)
    assert ImageTokenizerConfig().decoder_blocks == (4, 4, 3, 4, 3)


def test_a_wrong_number_of_block_counts_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        ImageTokenizer(ImageTokenizerConfig(channels=8, multipliers=(1, 1), num_res_blocks=(1, 1, 1), norm_groups=4))


def test_tables_follow_the_bit_order(tiny: ImageTokenizer) -> None:
    assert tiny.quantize.power_vals.tolist() == [16, 8, 4, 2, 1]
    assert tiny.quantize.power_vals.dtype == torch.int64
    assert tiny.quantize.embedding[0b10010].tolist() == [1, -1, -1, 1, -1]
    assert tiny.quantise(torch.tensor([1.0, -1, 0, 0.1, -0.0]).view(1, 5, 1, 1)).item() == 0b10010  # zero is no bit


def test_every_id_survives_bits_and_back(tiny: ImageTokenizer) -> None:
    ids = torch.arange(TINY.num_codes).view(2, 2, 8)
    bits = tiny.quantize.bits(ids)
    assert bits.shape == (2, TINY.num_bits, 2, 8)
    assert torch.equal(bits.abs(), torch.ones_like(bits))
    assert torch.equal(tiny.quantise(bits), ids)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (4, 12), (20, 8), (36, 28)])
def test_shapes(tiny: ImageTokenizer, height: int, width: int) -> None:
    with torch.inference_mode():
        ids = tiny.encode(images(2, 3, height, width))
        decoded = tiny.decode(ids)
    assert ids.shape == (2, height // TINY.factor, width // TINY.factor)
    assert ids.dtype == torch.int64
    assert ids.min() >= 0
    assert ids.max() < TINY.num_codes
    assert decoded.shape == (2, 3, height, width)


@pytest.mark.parametrize(("height", "width"), [(6, 8), (8, 7), (0, 8)])
def test_sides_that_are_no_multiple_are_refused(tiny: ImageTokenizer, height: int, width: int) -> None:
    with pytest.raises(ValueError, match="multiples of 4"):
        tiny.encode(torch.zeros(1, 3, height, width))


def test_a_batch_equals_its_images_alone(tiny: ImageTokenizer) -> None:
    batch = images(3, 3, 16, 20)
    with torch.inference_mode():
        together = tiny.encode_latent(batch)
        alone = torch.cat([tiny.encode_latent(image[None]) for image in batch])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_pass_straight_through_in_autocast(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    model = ImageTokenizer(TINY).to(memory_format=layout)
    batch = images(2, 3, 16, 16).to(memory_format=layout)
    with torch.autocast("cpu", torch.bfloat16):
        z = model.encode_latent(batch)
        bits = z + (torch.where(z > 0, 1.0, -1.0) - z).detach()
        decoded = model.decode_bits(bits)
    F.l1_loss(decoded.float(), batch).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.encoder.conv_in.weight.grad is not None
    assert model.encoder.conv_in.weight.grad.abs().max() > 0


def test_channels_last_gives_the_same_numbers(tiny: ImageTokenizer) -> None:
    batch = images(1, 3, 16, 24)
    with torch.inference_mode():
        plain = tiny.encode_latent(batch)
        moved = ImageTokenizer(TINY).eval()
        moved.load_state_dict(tiny.state_dict())
        moved.to(memory_format=torch.channels_last)
        torch.testing.assert_close(
            moved.encode_latent(batch.to(memory_format=torch.channels_last)), plain, rtol=0, atol=1e-5
        )


def test_runs_in_bfloat16(tiny: ImageTokenizer) -> None:
    half = ImageTokenizer(TINY).eval()
    half.load_state_dict(tiny.state_dict())
    half.to(torch.bfloat16)
    with torch.inference_mode():
        ids = half.encode(images(1, 3, 8, 8).bfloat16())
        assert half.decode(ids).dtype == torch.bfloat16


@pytest.fixture(scope="module")
def full() -> ImageTokenizer:
    torch.set_num_threads(1)
    model = ImageTokenizer(ImageTokenizerConfig())
    assert not model.load_state_dict(dream_weights(KEYS), strict=False).unexpected_keys
    return model.eval()


@pytest.mark.slow
def test_recipe_weights_are_the_goldens() -> None:
    weights = dream_weights({name: KEYS[name] for name in CASES["weights"]})
    assert {name: zlib.crc32(weight.numpy().tobytes()) for name, weight in weights.items()} == {
        name: case["crc32_float32"] for name, case in CASES["weights"].items()
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "height", "width", "stored"),
    [
        ("img64", 64, 64, lambda z: z),
        ("img32x96", 32, 96, lambda z: z),
        ("img256", 256, 256, lambda z: z[:, ::2, ::2]),
    ],
)
def test_encoder_equals_the_reference(
    full: ImageTokenizer, name: str, height: int, width: int, stored: Callable[[Tensor], Tensor]
) -> None:
    rng = np.random.default_rng([20240, zlib.crc32(b"magvit"), zlib.crc32(name.encode())])
    image = np.float32(rng.uniform(-1, 1, (1, 3, height, width)))
    assert zlib.crc32(image.tobytes()) == CASES[name]["crc32"]
    with torch.inference_mode():
        latent = full.encode_latent(torch.from_numpy(image))
    torch.testing.assert_close(stored(latent[0]), golden(f"{name}/z"), rtol=0, atol=LATENT_TOLERANCE)
    assert full.quantise(latent).flatten().tolist() == golden(f"{name}/indices").tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "h", "w", "pool"), [("dec4x4", 4, 4, 4), ("dec2x6", 2, 6, 4), ("dec16x16", 16, 16, 16)]
)
def test_decoder_equals_the_reference(full: ImageTokenizer, name: str, h: int, w: int, pool: int) -> None:
    with torch.inference_mode():
        decoded = full.decode(golden(f"{name}/indices").long().view(1, h, w))
    assert list(decoded.shape) == CASES[name]["image_shape"]
    expected = golden(f"{name}/avgpool")
    torch.testing.assert_close(F.avg_pool2d(decoded, pool)[0], expected, rtol=0, atol=PIXEL_TOLERANCE)
    assert decoded.mean().item() == pytest.approx(CASES[name]["mean"], abs=1e-5)
    assert decoded.std(correction=0).item() == pytest.approx(CASES[name]["std"], abs=1e-4)
    if name == "dec4x4":
        patch, stored = decoded[0, :, :32, :32], golden(f"{name}/pixels")
    elif name == "dec16x16":
        patch, stored = decoded[0, :, 120:136, 120:136], golden(f"{name}/crop")
    else:
        return
    torch.testing.assert_close(patch, stored, rtol=0, atol=PIXEL_TOLERANCE)
