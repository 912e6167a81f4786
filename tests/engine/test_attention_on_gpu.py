"""What a CUDA device does otherwise than a CPU: flash attention over packed sequences, and products of fixed shapes."""

import inspect
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from unmask_engine.loop import decode
from unmask_engine.models.backbone import BackboneConfig, _varlen_attention, packed_attention
from unmask_engine.models.omni import OmniModel
from unmask_engine.models.speech_encoder import SpeechEncoderConfig
from unmask_engine.scheduler import Policy
from unmask_engine.settings import Settings
from unmask_engine.state import DecodingState, Plan, canvas_of, unconstrained

VOCABULARY, MASK = 997, 990
# Rows that ask, and rows that are asked, of each sequence; the last ones of `q` may only fill up a shape.
CASES = [
    ([5, 9, 1], [5, 9, 1]),
    ([2, 0, 7], [5, 9, 7]),
    ([64, 64], [64, 64]),
    ([1], [300]),
    ([37, 130, 0], [100, 130, 26]),
]


def drawn(asking: list[int], lengths: list[int], filling: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(sum(lengths))
    shapes = ((sum(asking) + filling, 4), (sum(lengths), 2), (sum(lengths), 2))
    q, k, v = (torch.randn(rows, heads, 64, generator=g) for rows, heads in shapes)
    return q, k, v


@pytest.mark.parametrize(("asking", "lengths"), CASES, ids=str)
def test_flash_attention_is_called_for_what_attention_by_sequence_computes(
    asking: list[int], lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch has no kernel for CPUs; its signature is its own, what it computes is written out here."""
    from torch.nn.attention import varlen

    signature = inspect.signature(varlen.varlen_attn)

    def by_sequence(*args: Any, **options: Any) -> Tensor:
        given = signature.bind(*args, **options).arguments
        grouping = {"enable_gqa"} & set(signature.parameters)  # torch 2.11 groups heads unasked
        plain = {"query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"}
        assert set(given) == plain | grouping  # no mask, no scale
        assert all(given[name] for name in grouping)
        q, k, v = given["query"], given["key"], given["value"]
        assert all(x.stride()[1:] == (x.shape[2], 1) for x in (q, k, v))
        ends = given["cu_seq_q"], given["cu_seq_k"]
        assert {end.dtype for end in ends} == {torch.int32}
        spans = [list(pairwise(end.tolist())) for end in ends]
        longest = [max(stop - start for start, stop in part) for part in spans]
        assert [max(2, longest[0]), longest[1]] == [given["max_q"], given["max_k"]]
        assert (int(ends[0][-1]), int(ends[1][-1])) == (len(q), len(k))
        out = torch.full_like(q, torch.nan)
        for (first, stop), (first_key, stop_key) in zip(*spans, strict=True):
            sequence = (q[first:stop], k[first_key:stop_key], v[first_key:stop_key])
            attended = F.scaled_dot_product_attention(*(x.transpose(0, 1) for x in sequence), enable_gqa=True)
            out[first:stop] = attended.transpose(0, 1)
        return out

    by_sequence.__signature__ = signature  # type: ignore[attr-defined]
    monkeypatch.setattr(varlen, "varlen_attn", by_sequence)
    q, k, v = drawn(asking, lengths)
    found = _varlen_attention(q, k, v, asking, lengths)
    torch.testing.assert_close(found, packed_attention(q, k, v, asking, lengths), rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("asking", "lengths"), CASES, ids=str)
def test_flash_attention_is_as_close_to_float32_as_attention_by_sequence(
    asking: list[int], lengths: list[int], dtype: torch.dtype
) -> None:
    q, k, v = (x.to(dtype) for x in drawn(asking, lengths))
    truth = packed_attention(q.float(), k.float(), v.float(), asking, lengths)
    eager = packed_attention(q, k, v, asking, lengths)  # on the CPU, in the same precision
    found = _varlen_attention(q.cuda(), k.cuda(), v.cuda(), asking, lengths).cpu()
    assert found.shape == truth.shape
    assert (found.float() - truth).norm() <= 1.1 * (eager.float() - truth).norm() + 1e-3 * truth.norm()


@pytest.mark.gpu
def test_flash_attention_learns_as_attention_by_sequence() -> None:
    asking, lengths = CASES[4]
    with torch.enable_grad():
        gradients = []
        for dtype, device in ((torch.float32, "cpu"), (torch.bfloat16, "cpu"), (torch.bfloat16, "cuda")):
            given = [x.to(device, dtype).requires_grad_() for x in drawn(asking, lengths)]
            packed_attention(*given, asking, lengths).float().square().sum().backward()
            gradients.append([x.grad.float().cpu() for x in given if x.grad is not None])
    for truth, eager, found in zip(*gradients, strict=True):
        assert (found - truth).norm() <= 2 * (eager - truth).norm() + 1e-3 * truth.norm()


@pytest.mark.gpu
def test_flash_attention_within_a_sequence_does_not_see_its_neighbours() -> None:
    """Nor what else is asked of it: one row, some rows, all rows."""
    lengths = [37, 100, 100, 8, 250]
    q, k, v = (x.cuda().bfloat16() for x in drawn(lengths, lengths, filling=0))
    packed = packed_attention(q, k, v, lengths, lengths)
    for stop, length in zip(torch.tensor(lengths).cumsum(0).tolist(), lengths, strict=True):
        own = slice(stop - length, stop)
        assert torch.equal(packed_attention(q[own], k[own], v[own], [length], [length]), packed[own])
        for some in (slice(stop - 1, stop), slice(stop - length, stop, 3)):
            count = len(range(stop)[some])
            assert torch.equal(packed_attention(q[some], k[own], v[own], [count], [length]), packed[some])


@pytest.mark.gpu
def test_requests_on_a_gpu_commit_the_tokens_of_each_alone() -> None:
    """Products get whole tiles of rows; that the device rounds a row alike in any number of tiles is seen here."""
    torch.manual_seed(0)
    speech = SpeechEncoderConfig(size=16, num_heads=2, ffn_size=16, num_layers=2, num_tp_layers=1, ctc_vocab=4)
    with torch.device("cuda"):
        model = OmniModel(BackboneConfig(VOCABULARY, 256, 704, 4, 4, 2), speech)
    model = model.bfloat16().eval().requires_grad_(False)
    model.lm_head.weight *= 12

    def plan(seed: int) -> Plan:
        g = torch.Generator().manual_seed(seed)
        canvas = canvas_of(24 + 40 * (seed % 3), MASK)
        prompt, other = (
            model.embed(torch.randint(MASK, (size,), generator=g).cuda()) for size in (9 + 13 * (seed % 5), 7)
        )
        guidance = 1.5 if seed % 4 == 3 else 0.0
        settings = Settings(steps=12, top_p=0.9, top_k=50, temperature=0.7 * (seed % 2), guidance=guidance, seed=seed)
        allowed = unconstrained(canvas, ((0, VOCABULARY),))
        return Plan(settings, prompt, other if guidance else None, canvas, allowed, MASK, end=None)

    plans = [plan(seed) for seed in range(16)]
    alone = [DecodingState(p) for p in plans]
    for state in alone:
        decode([state], model)
    together = [DecodingState(p) for p in plans]
    everything = sum(p.tokens for p in plans)
    decode(together, model, policy=Policy(token_budget=everything, knee=everything))
    differing = sum(int((a.ids != b.ids).sum()) for a, b in zip(alone, together, strict=True))
    assert differing == 0, f"{differing} of {sum(len(a.ids) for a in alone)} tokens differ"
