import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from unmask_engine.models.backbone import BackboneConfig, pack
from unmask_engine.models.omni import OmniModel, predicting_row
from unmask_engine.models.speech_encoder import SpeechEncoderConfig
from unmask_engine.testing import dream_weights

GOLDEN = Path(__file__).parents[1] / "golden"
SMALL = BackboneConfig(176264, 64, 128, num_layers=2, num_heads=4, num_kv_heads=2)
DREAM_7B = BackboneConfig(176264, 3584, 18944, num_layers=28, num_heads=28, num_kv_heads=4)
TINY = BackboneConfig(100, 32, 48, num_layers=2, num_heads=4, num_kv_heads=2)
TINY_SPEECH = SpeechEncoderConfig(size=16, num_heads=2, ffn_size=24, num_layers=2, num_tp_layers=1, ctc_vocab=10)


def key_list(name: str) -> dict[str, list[int]]:
    keys: dict[str, list[int]] = json.loads((GOLDEN / name).read_text())
    return keys


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(GOLDEN / "dream_golden.npz") as arrays:
        return {k: torch.from_numpy(arrays[k]) for k in arrays.files if k.startswith("forward/")}


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return dream_weights({k: s for k, s in key_list("dream_small_keys.json").items() if ".audio_" not in k})


def moments(logits: Tensor) -> Tensor:
    """(R, V) logits -> (R, 3): log-sum-exp, mean and standard deviation of each row."""
    logits = logits.float()
    return torch.stack([logits.logsumexp(dim=1), logits.mean(dim=1), logits.std(dim=1)], dim=1)


@pytest.fixture
def small(weights: dict[str, Tensor]) -> OmniModel:
    """The golden model without the weights of its speech encoder, which these tests do not run."""
    with torch.device("meta"):
        model = OmniModel(SMALL, SpeechEncoderConfig())
    model.load_state_dict(weights, strict=False, assign=True)
    return model.eval()


@pytest.fixture
def tiny() -> OmniModel:
    torch.manual_seed(0)
    return OmniModel(TINY, TINY_SPEECH)


@pytest.mark.parametrize(("config", "keys"), [(SMALL, "dream_small_keys.json"), (DREAM_7B, "dream_7b_keys.json")])
def test_state_dict_has_the_published_names_and_shapes(config: BackboneConfig, keys: str) -> None:
    with torch.device("meta"):
        model = OmniModel(config, SpeechEncoderConfig())
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == key_list(keys)
    assert not list(model.buffers())


def test_the_recipe_makes_the_reference_s_weights(weights: dict[str, Tensor]) -> None:
    golden = json.loads((GOLDEN / "dream_golden.json").read_text())["forward"]["weights"]
    others = dream_weights({name: entry["shape"] for name, entry in golden.items() if name not in weights})
    for name in golden:
        tensor = (weights | others)[name]
        assert tensor.flatten()[:4].tolist() == golden[name]["first4"], name
        assert zlib.crc32(tensor.numpy().tobytes()) == golden[name]["crc32_float32"], name


@torch.no_grad()
def test_forward_equals_the_reference_in_float32(small: OmniModel, golden: dict[str, Tensor]) -> None:
    ids, rows, columns = (golden[f"forward/{name}"].long() for name in ("input_ids", "positions", "columns"))
    embeds = small.embed(ids)
    torch.testing.assert_close(embeds, golden["forward/float32/hidden_0"], rtol=0, atol=0)
    first = small.model.layers[0](embeds, pack((len(ids),), SMALL.head_dim, SMALL.rope_theta, ids.device))
    torch.testing.assert_close(first, golden["forward/float32/hidden_1"], rtol=1e-5, atol=1e-5)
    hidden = small.forward_packed(embeds, [len(ids)])
    torch.testing.assert_close(hidden, golden["forward/float32/hidden_2"], rtol=1e-5, atol=1e-5)
    logits = small.logits(hidden[rows])
    torch.testing.assert_close(logits[:, columns], golden["forward/float32/logits_cols"], rtol=1e-5, atol=2e-5)
    top = logits.topk(8)
    assert torch.equal(top.indices, golden["forward/float32/top8_ids"].long())
    torch.testing.assert_close(top.values, golden["forward/float32/top8_values"], rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(moments(logits), golden["forward/float32/logsumexp_mean_std"], rtol=1e-5, atol=2e-5)


@torch.no_grad()
def test_forward_in_bfloat16_is_as_close_to_float32_as_the_reference(
    small: OmniModel, golden: dict[str, Tensor]
) -> None:
    ids, rows, columns = (golden[f"forward/{name}"].long() for name in ("input_ids", "positions", "columns"))
    truth_logits = small.logits(small.forward_packed(small.embed(ids), [len(ids)])[rows])
    model = small.bfloat16()
    hidden = model.forward_packed(model.embed(ids), [len(ids)])
    logits = model.logits(hidden[rows])
    assert logits.dtype == torch.bfloat16
    top_ids = golden["forward/bfloat16/top8_ids"].long()
    shared = (top_ids[:, :, None] == logits.topk(8).indices[:, None]).sum(dim=(1, 2))
    assert int(shared.min()) >= 7  # at the eighth place bfloat16 ties
    for ours, truth, theirs in (
        (hidden, golden["forward/float32/hidden_2"], golden["forward/bfloat16/hidden_final_norm"]),
        (logits[:, columns], golden["forward/float32/logits_cols"], golden["forward/bfloat16/logits_cols"]),
        (logits.gather(1, top_ids), truth_logits.gather(1, top_ids), golden["forward/bfloat16/top8_values"]),
        (moments(logits), *(golden[f"forward/{kind}/logsumexp_mean_std"] for kind in ("float32", "bfloat16"))),
    ):
        assert (ours.float() - truth).norm() <= 1.1 * (theirs - truth).norm()
        assert (ours.float() - theirs).norm() <= 0.01 * theirs.norm()


@pytest.mark.parametrize("lengths", [[1], [5, 9, 1], [6, 6, 6], [3, 4]])
@torch.no_grad()
def test_packed_sequences_do_not_see_each_other(tiny: OmniModel, lengths: list[int]) -> None:
    sequences = [torch.randint(TINY.vocab_size, (n,)) for n in lengths]
    alone = torch.cat([tiny.forward_packed(tiny.embed(ids), [len(ids)]) for ids in sequences])
    packed = tiny.forward_packed(tiny.embed(torch.cat(sequences)), lengths)
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_attention_is_bidirectional(tiny: OmniModel) -> None:
    ids = torch.arange(6)
    first = tiny.forward_packed(tiny.embed(ids), [6])[0]
    ids[-1] = 50
    assert not torch.allclose(first, tiny.forward_packed(tiny.embed(ids), [6])[0])


def test_lengths_that_do_not_add_up_are_refused(tiny: OmniModel) -> None:
    with pytest.raises(ValueError, match="sum to 5, but 6 rows"):
        tiny.forward_packed(tiny.embed(torch.arange(6)), [2, 3])


def test_each_position_is_predicted_by_the_one_before() -> None:
    assert [predicting_row(i) for i in range(4)] == [0, 0, 1, 2]


def test_trains_under_bfloat16_autocast(tiny: OmniModel) -> None:
    ids = torch.randint(TINY.vocab_size, (12,))
    with torch.autocast("cpu", torch.bfloat16):
        speech = tiny.encode_speech(torch.randn(1, 3, 560))[0]  # 3 + 4 rows
        hidden = tiny.forward_packed(torch.cat((tiny.embed(ids), speech)), [12, 7])
        loss = torch.nn.functional.cross_entropy(tiny.logits(hidden[:11]).float(), ids[1:])
        (loss + hidden[12:].square().mean()).backward()  # type: ignore[no-untyped-call]
    missing = [name for name, p in tiny.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert all(".ctc." in name for name in missing)


def test_impossible_head_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of num_kv_heads"):
        BackboneConfig(10, 32, 32, num_layers=1, num_heads=4, num_kv_heads=3)
    with pytest.raises(ValueError, match="even multiple of num_heads"):
        BackboneConfig(10, 36, 32, num_layers=1, num_heads=4, num_kv_heads=4)
