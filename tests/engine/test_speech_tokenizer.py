"""WhisperVQ against upstream's ids and intermediate tensors (tests/golden/README.md), and its own properties."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from unmask_engine.codecs.mel import MelConfig, log_mel, slaney_filters
from unmask_engine.codecs.speech_tokenizer import SpeechTokenizer, SpeechTokenizerConfig, drop_training_state
from unmask_engine.testing import speech_weights

GOLDEN = Path(__file__).parents[1] / "golden"
TINY = SpeechTokenizerConfig(
    d_model=64, num_heads=4, ffn_size=128, num_layers=2, codebook_size=128, max_frames=200, block_frames=16
)
SIZES = [
    pytest.param("tiny_", TINY, id="tiny"),
    pytest.param("", SpeechTokenizerConfig(), id="full", marks=pytest.mark.slow),
]


def golden(name: str) -> Tensor:
    with np.load(GOLDEN / "speech_golden.npz") as arrays:
        return torch.from_numpy(arrays[name])


def key_shapes(prefix: str) -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = json.loads((GOLDEN / f"{prefix}whispervq_keys.json").read_text())["shapes"]
    return shapes


def make_tokenizer(prefix: str, config: SpeechTokenizerConfig) -> SpeechTokenizer:
    weights = speech_weights({name: shape for name, shape in key_shapes(prefix).items() if not name.startswith("ema_")})
    scale, centre = golden(f"{prefix}wvq_codebook_scale").item(), golden(f"{prefix}wvq_codebook_center")
    weights["codebook.weight"] = centre + scale * weights["codebook.weight"]
    with torch.device("meta"):
        model = SpeechTokenizer(config)
    model.load_state_dict(weights, assign=True)
    return model.eval()


@pytest.fixture(scope="module")
def tiny() -> SpeechTokenizer:
    return make_tokenizer("tiny_", TINY)


@pytest.mark.parametrize(("prefix", "config"), [("tiny_", TINY), ("", SpeechTokenizerConfig())])
def test_state_dict_has_the_published_names(prefix: str, config: SpeechTokenizerConfig) -> None:
    with torch.device("meta"):
        state = SpeechTokenizer(config).state_dict()
    published = key_shapes(prefix)
    assert {"ema_count", "ema_weight"} <= set(published)
    assert {name: list(tensor.shape) for name, tensor in state.items()} == drop_training_state(published)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", ["", "_pad"])
def test_features_equal_upstream(tiny: SpeechTokenizer, suffix: str) -> None:
    audio = golden("wvq_audio")[: 30500 if suffix else None]
    mel, mask = tiny.features(audio)
    torch.testing.assert_close(mel[0], golden(f"wvq_logmel{suffix}"), rtol=0, atol=2e-4)
    assert torch.equal(mask[0], golden(f"wvq_attention_mask{suffix}").bool())


def margins(model: SpeechTokenizer, audio: Tensor) -> Tensor:
    """By how much the second-nearest code is farther than the nearest, in squared distance: (ids,)."""
    with torch.no_grad():
        pooled = model.encode_pooled(*model.features(audio))[0]
        nearest = torch.cdist(pooled.double(), model.codebook.weight.double()).square().topk(2, largest=False).values
    return (nearest[:, 1] - nearest[:, 0]).float()


@pytest.mark.parametrize(("prefix", "config"), SIZES)
def test_ids_equal_upstream(prefix: str, config: SpeechTokenizerConfig) -> None:
    model = make_tokenizer(prefix, config)
    audio = golden("wvq_audio")
    with torch.no_grad():
        pooled = model.encode_pooled(*model.features(audio))
    expected = golden(f"{prefix}wvq_pooled")
    torch.testing.assert_close(pooled[0], expected, rtol=0, atol=1e-4 * expected.abs().max().item())
    ids = model.encode(audio)
    assert torch.equal(ids, golden(f"{prefix}wvq_ids"))
    assert torch.equal(model.encode(audio[:30500]), golden(f"{prefix}wvq_ids_pad"))
    # Upstream's module returns the codes plus positions that we only load; its first four rows are stored.
    last_hidden = (model.codebook.weight[ids[:4]] + model.embed_positions2.weight[:4]).detach()
    torch.testing.assert_close(last_hidden, golden(f"{prefix}wvq_last_hidden"), rtol=0, atol=1e-5)
    for suffix, end in (("", None), ("_pad", 30500)):
        margin, expected = margins(model, audio[:end]), golden(f"{prefix}wvq_margin{suffix}")
        torch.testing.assert_close(margin, expected, rtol=1e-3, atol=1e-2)


def test_segments_are_independent(tiny: SpeechTokenizer) -> None:
    audio = torch.randn(2 * TINY.samples_per_segment + 700, generator=torch.Generator().manual_seed(1)) * 0.1
    ids = tiny.encode(audio)
    cut = TINY.samples_per_segment
    assert torch.equal(
        ids, torch.cat([tiny.encode(part) for part in (audio[:cut], audio[cut : 2 * cut], audio[2 * cut :])])
    )
    assert len(ids) == -(-len(audio) // TINY.samples_per_token)


def test_no_samples_are_no_ids(tiny: SpeechTokenizer) -> None:
    assert tiny.encode(torch.zeros(0)).shape == (0,)


def test_padding_in_a_batch_changes_nothing(tiny: SpeechTokenizer) -> None:
    audio = golden("wvq_audio")
    batch = torch.stack([audio, torch.cat([audio[:20480], torch.zeros(11520)])])
    with torch.no_grad():
        pooled = tiny.encode_pooled(*tiny.features(batch, torch.tensor([32000, 20480])))
        alone = tiny.encode_pooled(*tiny.features(audio[:20480]))
    # The last 10 ms of features look 200 samples ahead: into zeros here, into the reflection of the end there.
    torch.testing.assert_close(pooled[1, :12], alone[0, :12], rtol=0, atol=1e-4)


def test_a_token_is_final_when_its_block_is_complete(tiny: SpeechTokenizer) -> None:
    mel, _ = tiny.features(golden("wvq_audio"))
    changed = mel.clone()
    changed[:, :, 2 * TINY.block_frames :] += 1.0
    with torch.no_grad():
        before, after = tiny.encode_pooled(mel), tiny.encode_pooled(changed)
    complete = TINY.block_frames // TINY.pool
    torch.testing.assert_close(before[:, :complete], after[:, :complete])
    assert not torch.allclose(before[:, complete], after[:, complete], atol=1e-3)


def test_pooled_vectors_carry_gradients(tiny: SpeechTokenizer) -> None:
    mel, mask = tiny.features(golden("wvq_audio"))
    mel.requires_grad_()
    tiny.encode_pooled(mel, mask).square().sum().backward()  # type: ignore[no-untyped-call]
    assert mel.grad is not None
    assert mel.grad.abs().sum() > 0


def test_equally_near_codes_give_the_lowest_id(tiny: SpeechTokenizer) -> None:
    model = SpeechTokenizer(TINY)
    with torch.no_grad():
        model.codebook.weight[:] = model.codebook.weight[5]
    assert model.quantise(torch.randn(3, TINY.d_model)).tolist() == [0, 0, 0]


def test_slaney_filters_have_unit_area() -> None:
    filters = slaney_filters(22050, 8192, 80, 0.0, 8000.0)
    areas = filters.sum(dim=1) * 22050 / 8192
    torch.testing.assert_close(areas, torch.ones(80), rtol=0, atol=0.02)


def test_log_mel_finds_a_tone_and_keeps_the_frame_count() -> None:
    config = MelConfig()
    time = torch.arange(256 * 40) / config.sample_rate
    mel = log_mel(torch.stack([torch.sin(2 * torch.pi * 1000.0 * time), torch.zeros_like(time)]), config)
    assert mel.shape == (2, 80, 40)
    centres = slaney_filters(22050, 1024, 80, 0.0, 8000.0).argmax(dim=1) * 22050 / 1024
    assert abs(centres[mel[0, :, 20].argmax()].item() - 1000.0) < 50.0
    assert torch.equal(mel[1], mel[1, :, :1].expand(-1, 40))
