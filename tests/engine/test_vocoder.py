"""HiFT against upstream's tensors at test and real size (tests/golden/README.md), and its own properties."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from unmask_engine.codecs.vocoder import Vocoder, VocoderConfig
from unmask_engine.testing import speech_weights

GOLDEN = Path(__file__).parents[1] / "golden"
TINY = VocoderConfig(num_mels=20, channels=(32, 16, 8), f0_channels=16)
SIZES = [
    pytest.param("tiny_", TINY, id="tiny"),
    pytest.param("", VocoderConfig(), id="full", marks=pytest.mark.slow),
]
SHAPES = [
    VocoderConfig(
        num_mels=20, channels=(24, 16, 12), upsample_rates=(4, 4), upsample_kernels=(8, 8), n_fft=64, hop_length=16
    ),
    VocoderConfig(
        num_mels=20,
        channels=(16, 8),
        upsample_rates=(16,),
        upsample_kernels=(32,),
        source_kernels=(5,),
        dilations=(1, 3),
    ),
    VocoderConfig(
        num_mels=20,
        channels=(16, 12, 8, 8),
        upsample_rates=(5, 3, 2),
        upsample_kernels=(11, 7, 4),
        source_kernels=(3, 3, 3),
        resblock_kernels=(3, 5),
        n_fft=20,
        hop_length=5,
    ),
]


def golden(name: str) -> Tensor:
    with np.load(GOLDEN / "speech_golden.npz") as arrays:
        return torch.from_numpy(arrays[name])


def key_shapes(prefix: str) -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = json.loads((GOLDEN / f"{prefix}hift_keys.json").read_text())["shapes"]
    return shapes


def make_vocoder(prefix: str, config: VocoderConfig) -> Vocoder:
    with torch.device("meta"):
        model = Vocoder(config)
    model.load_state_dict(speech_weights(key_shapes(prefix)), assign=True)
    return model.eval()


def injected_noise(num_frames: int) -> tuple[Tensor, Tensor]:
    """Phases (1, 9, 1) and sine noise (1, 9, 256 T): recipe tags 2 and 3, both drawn as float32."""
    uniform = np.random.default_rng([777, 2]).random((1, 9, 1), dtype=np.float32)
    phase = torch.from_numpy((-np.pi + 2 * np.pi * uniform).astype(np.float32))
    phase[:, 0] = 0
    noise = np.random.default_rng([777, 3]).standard_normal((1, 9, 256 * num_frames), dtype=np.float32)
    return phase, torch.from_numpy(noise)


@pytest.mark.parametrize(("prefix", "config"), [("tiny_", TINY), ("", VocoderConfig())])
def test_state_dict_has_the_published_names(prefix: str, config: VocoderConfig) -> None:
    with torch.device("meta"):
        state = Vocoder(config).state_dict()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == key_shapes(prefix)


@pytest.mark.parametrize(("prefix", "config"), SIZES)
def test_tensors_equal_upstream(prefix: str, config: VocoderConfig) -> None:
    model = make_vocoder(prefix, config)
    mel, source, wav = (golden(f"{prefix}{name}_inj")[None] for name in ("mel", "source", "wav"))
    phase, noise = injected_noise(mel.shape[-1])
    assert torch.equal(noise[0, :, :4], golden("sine_noise_inj_head"))
    with torch.no_grad():
        f0 = model.predict_f0(mel)
        own_source = model.source(f0, phase=phase, noise=noise)
        torch.testing.assert_close(f0[0], golden(f"{prefix}f0_inj"), rtol=0, atol=2e-3)
        torch.testing.assert_close(own_source, source, rtol=0, atol=1e-3)
        torch.testing.assert_close(model.vocode(mel, source), wav, rtol=0, atol=2e-4)
        torch.testing.assert_close(model.vocode(mel, own_source), wav, rtol=0, atol=5e-3)
        unfolded = model.vocode(mel, source)
        torch.testing.assert_close(model.fold_weight_norm().vocode(mel, source), unfolded, rtol=0, atol=1e-6)
    assert not any(name.endswith("_g") for name in model.state_dict())


@pytest.mark.parametrize("config", SHAPES)
def test_other_shapes_run_and_learn(config: VocoderConfig) -> None:
    model = Vocoder(config)
    f0 = torch.tensor([[0.0] * 6 + [120.0] * 6] * 2)
    mel = torch.randn(2, config.num_mels, 12, requires_grad=True)
    samples = model(mel, torch.Generator().manual_seed(0), f0=f0)
    assert samples.shape == (2, 12 * config.samples_per_frame)
    (samples.square().mean() + (model.predict_f0(mel) - f0).abs().mean()).backward()
    assert mel.grad is not None
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("config", [TINY, *SHAPES])
def test_samples_depend_on_context_frames_only(config: VocoderConfig) -> None:
    """In float64, where rounding hides nothing: a change just outside the context changes no sample."""
    torch.manual_seed(0)
    model = Vocoder(config).double()
    context, hop = config.context_frames, config.samples_per_frame
    num_frames = 2 * context + 1
    mel = torch.randn(1, config.num_mels, num_frames, dtype=torch.float64)
    source = 0.1 * torch.randn(1, num_frames * hop, dtype=torch.float64)
    with torch.no_grad():
        for edge, centre in ((0, context + 1), (num_frames - 1, context - 1)):
            other_mel, other_source = mel.clone(), source.clone()
            other_mel[..., edge] += 10.0
            other_source[..., edge * hop : (edge + 1) * hop] += 1.0
            frame = slice(centre * hop, (centre + 1) * hop)
            before, after = model.vocode(mel, source), model.vocode(other_mel, other_source)
            assert torch.equal(before[:, frame], after[:, frame])
            assert not torch.equal(before, after)


def test_unvoiced_frames_are_noise_and_voiced_ones_a_tone() -> None:
    model = Vocoder(TINY)
    with torch.no_grad():
        model.m_source.l_linear.weight.zero_()[0, 0] = 1.0  # the fundamental alone
        model.m_source.l_linear.bias.zero_()
        f0 = torch.tensor([[0.0] * 20 + [441.0] * 20])
        silent = torch.zeros(1, 9, 40 * 256)
        source = model.source(f0, phase=torch.zeros(1, 9, 1), noise=silent)
    expected = torch.tanh(0.1 * torch.sin(2 * torch.pi * 441.0 / 22050 * torch.arange(1, 20 * 256 + 1)))
    assert source[0, : 20 * 256].abs().max() == 0
    torch.testing.assert_close(source[0, 20 * 256 :], expected, rtol=0, atol=1e-4)


def test_source_leaves_the_global_random_state_alone() -> None:
    model = Vocoder(TINY)
    before = torch.get_rng_state()
    first, second = (model.source(torch.full((1, 3), 100.0), torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, second)
    with pytest.raises(ValueError, match="generator"):
        model.source(torch.full((1, 3), 100.0))


def test_config_rejects_stages_that_do_not_agree() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        VocoderConfig(upsample_rates=(4, 4, 4))
    with pytest.raises(ValueError, match="does not fit"):
        Vocoder(VocoderConfig(channels=(8, 8, 8), f0_channels=8, upsample_kernels=(15, 16)))


def test_autocast_trains_with_float32_samples() -> None:
    model = Vocoder(SHAPES[0])
    with torch.autocast("cpu", torch.bfloat16):
        samples = model(torch.randn(1, 20, 8), torch.Generator().manual_seed(0))
    assert samples.dtype == torch.float32
    samples.square().mean().backward()
