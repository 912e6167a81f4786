"""The speech flow against upstream's tensors at test and real size (tests/golden/README.md), and its own properties."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unmask_engine.codecs.flow_encoder import nearest_token
from unmask_engine.codecs.speech_flow import FlowConfig, SpeechFlow
from unmask_engine.testing import speech_weights

GOLDEN = Path(__file__).parents[1] / "golden"
TINY = FlowConfig(
    vocab_size=64,
    num_mels=20,
    d_model=32,
    encoder_heads=2,
    encoder_ffn=64,
    encoder_layers=2,
    channels=32,
    blocks_per_stage=1,
    num_mid_stages=2,
    estimator_heads=2,
    estimator_head_dim=8,
)
SIZES = [
    pytest.param("tiny_", TINY, id="tiny"),
    pytest.param("", FlowConfig(), id="full", marks=pytest.mark.slow),
]


def golden(name: str) -> Tensor:
    with np.load(GOLDEN / "speech_golden.npz") as arrays:
        return torch.from_numpy(arrays[name])


def key_shapes(prefix: str) -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = json.loads((GOLDEN / f"{prefix}flow_keys.json").read_text())["shapes"]
    return shapes


def make_flow(prefix: str, config: FlowConfig) -> SpeechFlow:
    with torch.device("meta"):
        model = SpeechFlow(config)
    model.load_state_dict(speech_weights(key_shapes(prefix)), assign=True)
    return model.eval()


@pytest.fixture(scope="module")
def tiny() -> SpeechFlow:
    return make_flow("tiny_", TINY)


@pytest.mark.parametrize(("prefix", "config"), [("tiny_", TINY), ("", FlowConfig())])
def test_state_dict_has_the_published_names(prefix: str, config: FlowConfig) -> None:
    with torch.device("meta"):
        state = SpeechFlow(config).state_dict()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == key_shapes(prefix)


@pytest.mark.parametrize(("prefix", "config"), SIZES)
def test_tensors_equal_upstream(prefix: str, config: FlowConfig) -> None:
    model = make_flow(prefix, config)
    ids, expected_mel = golden(f"{prefix}tokens"), golden(f"{prefix}mel_inj")
    noise = np.random.default_rng([777, 1]).standard_normal((1, *expected_mel.shape), dtype=np.float32)
    x = torch.from_numpy(noise)
    assert torch.equal(x[0], golden(f"{prefix}z_inj"))
    with torch.no_grad():
        encoded = model.encoder(model.input_embedding(ids[None]))
        projected = model.project(model.input_embedding(ids[None]))
        mu = model.encode_tokens(ids)
        first = model.estimate(x, mu, torch.zeros(1), model.speaker(), torch.zeros_like(mu))
    results = {
        "enc_proj": projected[0],
        "mu": mu[0].T,
        "spk": model.speaker()[0].detach(),
        "est_first": first[0],
        "mel_inj": model.generate_mel(ids, noise=x)[0],
        "mel_rng42": model.generate_mel(ids, torch.Generator().manual_seed(42))[0],
    } | ({"enc_out": encoded[0]} if prefix else {})  # not stored at full size
    for name, result in results.items():
        torch.testing.assert_close(result, golden(prefix + name), rtol=0, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(("prefix", "num_mels"), [("tiny_", 20), ("", 80)])
def test_the_starting_noise_is_upstream_s(prefix: str, num_mels: int) -> None:
    model = SpeechFlow(replace(TINY, num_mels=num_mels))
    for parameter in model.decoder.parameters():
        parameter.detach().zero_()  # no velocity: the mel is where it started
    start = model.generate_mel(torch.zeros(24, dtype=torch.long), torch.Generator().manual_seed(42), num_steps=1)
    torch.testing.assert_close(start.flatten()[:8], golden(f"{prefix}z_rng42_head"), rtol=0, atol=1e-6)


def test_global_random_state_is_left_alone(tiny: SpeechFlow) -> None:
    before = torch.get_rng_state()
    tiny.generate_mel(torch.tensor([1, 2, 3]), torch.Generator().manual_seed(0), num_steps=1)
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(ValueError, match="generator"):
        tiny.generate_mel(torch.tensor([1, 2, 3]))


def test_equal_lengths_batch(tiny: SpeechFlow) -> None:
    ids = torch.tensor([[1, 2, 3, 4, 5, 6, 7], [9, 8, 7, 6, 5, 4, 3]])
    noise = torch.randn(2, TINY.num_mels, tiny.num_frames(7), generator=torch.Generator().manual_seed(3))
    together = tiny.generate_mel(ids, noise=noise, num_steps=3)
    for row in range(2):
        alone = tiny.generate_mel(ids[row], noise=noise[row : row + 1], num_steps=3)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-4)


def test_blocks_see_themselves_and_the_past(tiny: SpeechFlow) -> None:
    ids = torch.arange(25)[None]
    changed = ids.clone()
    changed[0, 17] = 60
    with torch.no_grad():
        before, after = (tiny.project(tiny.input_embedding(x))[0] for x in (ids, changed))
    same = torch.isclose(before, after, atol=1e-6).all(dim=1)
    assert same.tolist() == [True] * 10 + [False] * 15


def test_negative_ids_count_as_zero(tiny: SpeechFlow) -> None:
    with torch.no_grad():
        assert torch.equal(tiny.encode_tokens(torch.tensor([-1, 5])), tiny.encode_tokens(torch.tensor([0, 5])))


def test_prompt_frames_are_cut_off(tiny: SpeechFlow) -> None:
    prompt_mel = torch.zeros(1, TINY.num_mels, tiny.num_frames(4))
    ids, prompt_ids = torch.arange(6), torch.arange(4)
    noise = torch.randn(1, TINY.num_mels, tiny.num_frames(10), generator=torch.Generator().manual_seed(3))
    mel = tiny.generate_mel(ids, noise=noise, num_steps=2, prompt_ids=prompt_ids, prompt_mel=prompt_mel)
    assert mel.shape[-1] == tiny.num_frames(10) - tiny.num_frames(4)
    without = tiny.generate_mel(torch.arange(10) % 4, noise=noise, num_steps=2)
    assert not torch.allclose(mel, without[..., -mel.shape[-1] :], atol=1e-2)


def test_nearest_token_is_that_of_interpolate() -> None:
    for num_tokens in range(1, 400):
        num_frames = num_tokens * 441 // 64
        ramp = torch.arange(num_tokens, dtype=torch.float32)[None, None]
        expected = F.interpolate(ramp, size=num_frames, mode="nearest")[0, 0].long()
        assert torch.equal(nearest_token(num_tokens, num_frames), expected), num_tokens
    integer = torch.arange(165) * 24 // 165
    assert (nearest_token(24, 165) != integer).nonzero().flatten().tolist() == [55, 110]


def test_frame_count_is_truncated_in_float32(tiny: SpeechFlow) -> None:
    for num_tokens in [*range(1, 300), 3391, 3392, 20000]:
        assert tiny.num_frames(num_tokens) == int(torch.tensor(num_tokens) / 12.5 * 22050 / 256)
    exceptions = sum(tiny.num_frames(n) != n * 441 // 64 for n in range(1, 20001))
    assert exceptions == 21


def test_mu_and_velocity_carry_gradients() -> None:
    model = SpeechFlow(TINY)
    embeddings = torch.randn(2, 9, TINY.d_model, requires_grad=True)
    mu = model.mu_from_embeddings(embeddings, 60)
    time = torch.rand(2)
    velocity = model.estimate(torch.randn_like(mu), mu, time, model.speaker().expand(2, -1), torch.zeros_like(mu))
    velocity.square().mean().backward()  # type: ignore[no-untyped-call]
    assert embeddings.grad is not None
    assert embeddings.grad.abs().sum() > 0
    assert all(p.grad is not None for name, p in model.named_parameters() if name != "input_embedding.weight")


def test_a_flow_without_steps_has_no_estimator_and_gives_mu() -> None:
    flow = SpeechFlow(replace(FlowConfig(), d_model=32, encoder_heads=2, encoder_ffn=32, encoder_layers=1, num_steps=0))
    ids = torch.tensor([1, 2, 3, 4])
    assert not [name for name in flow.state_dict() if "estimator" in name]
    torch.testing.assert_close(flow.generate_mel(ids), flow.encode_tokens(ids))
    with pytest.raises(ValueError, match="without an estimator"):
        flow.generate_mel(ids, num_steps=2)
