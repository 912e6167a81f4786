"""The sampler against the reference's unit vectors and against the rule written out naively."""

import json
import zlib
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unmask_kernels.confidence import ALGORITHMS
from unmask_kernels.filters import keep
from unmask_kernels.penalties import penalise, penalise_repetition, position_strength
from unmask_kernels.rows import ANY, RowParams
from unmask_kernels.sample import Implementation, sample

FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = np.load(FOLDER / "dream_golden.npz")
UNIT = json.loads((FOLDER / "dream_golden.json").read_text())["unit"]
FILTERS = {"plain": (1.0, 0), "p90": (0.9, 0), "k50": (1.0, 50), "p90k50": (0.9, 50), "p30k5": (0.3, 5)}
PENALTIES = {"none": (1.0, 1.0), "rep": (1.2, 1.0), "pos": (1.0, 2.0), "both": (1.2, 2.0)}
KINDS = {"conf": "maskgit_plus", "margin": "topk_margin", "entropy": "entropy"}


def rows(num_rows: int, vocabulary: int, **values: float | Tensor) -> RowParams:
    """Parameters that leave the logits alone, but for the given ones."""
    zeros = torch.zeros(num_rows, dtype=torch.int64)
    params = RowParams(
        algorithm=zeros,
        temperature=torch.zeros(num_rows),
        top_p=torch.ones(num_rows),
        top_k=zeros,
        repetition_penalty=torch.ones(num_rows),
        position_strength=torch.ones(num_rows),
        guidance=torch.zeros(num_rows),
        seed=zeros,
        step=zeros,
        position=torch.arange(num_rows),
        allowed=torch.tensor([[0, vocabulary]]).expand(num_rows, 1, 2),
        never=torch.full_like(zeros, ANY),
        request=zeros,
        seen=torch.zeros(1, vocabulary, dtype=torch.bool),
    )
    full = {
        name: value if isinstance(value, Tensor) else torch.full_like(getattr(params, name), value)
        for name, value in values.items()
    }
    return replace(params, **full)


@pytest.fixture(scope="module")
def unit_logits() -> Tensor:
    rng = np.random.default_rng([20240, zlib.crc32(b"unit"), zlib.crc32(b"logits")])
    logits = (3 * rng.standard_normal((130, 200))).astype(np.float32)
    assert zlib.crc32(logits.tobytes()) == UNIT["logits_crc32"]
    return torch.from_numpy(logits)


@pytest.fixture(scope="module")
def unit_seen() -> Tensor:
    """The answer so far of the unit vectors, (1, 200) bool; 0 and the mask are no answer."""
    seen = torch.zeros(1, 200, dtype=torch.bool)
    seen[0, torch.from_numpy(GOLDEN["unit/past_x"][0]).long()] = True
    seen[0, [0, 199]] = False
    return seen


def test_unit_filters_are_those_of_the_reference() -> None:
    golden = {name: (filters.get("top_p", 1.0), filters.get("top_k", 0)) for name, filters in UNIT["filters"].items()}
    assert golden == FILTERS


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("filter_", FILTERS)
@pytest.mark.parametrize("kind", KINDS)
def test_unit_vectors_of_the_reference(
    unit_logits: Tensor, unit_seen: Tensor, kind: str, filter_: str, penalty: str
) -> None:
    top_p, top_k = FILTERS[filter_]
    repetition, position = PENALTIES[penalty]
    num_rows = torch.full((130,), 130)
    params = rows(
        130,
        200,
        algorithm=ALGORITHMS.index(KINDS[kind]),
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition,
        position_strength=position_strength(torch.arange(130), num_rows, torch.full((130,), position)),
        seen=unit_seen,
    )
    tokens, confidence = sample(unit_logits, None, params)
    assert np.array_equal(tokens.numpy(), GOLDEN[f"unit/{filter_}.{penalty}/x0"])
    np.testing.assert_allclose(
        confidence.numpy(), GOLDEN[f"unit/{kind}.{filter_}.{penalty}/confidence"], rtol=1e-5, atol=2e-6
    )


@pytest.mark.parametrize("impl", ["reference", "torch", "triton"])
def test_rows_of_the_unit_vectors_in_one_call(
    unit_logits: Tensor, unit_seen: Tensor, impl: Implementation, device: torch.device
) -> None:
    """Every pair of filter and penalty once: few enough rows for Triton's interpreter."""
    if impl == "triton":
        pytest.importorskip("triton")
    cases = list(product(KINDS, FILTERS, PENALTIES))[::3]
    at = torch.arange(len(cases)) * 37 % 130
    top_p, top_k = (torch.tensor(column) for column in zip(*(FILTERS[f] for _, f, _ in cases), strict=True))
    repetition, position = (torch.tensor(c) for c in zip(*(PENALTIES[p] for *_, p in cases), strict=True))
    params = rows(
        len(cases),
        200,
        algorithm=torch.tensor([ALGORITHMS.index(KINDS[kind]) for kind, *_ in cases]),
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition,
        position_strength=position_strength(at, torch.full_like(at, 130), position),
        seen=unit_seen,
    )
    tokens, confidence = sample(unit_logits[at].to(device), None, params.to(device), impl=impl)
    names = [(f"{kind}.", f"{filter_}.{penalty}") for kind, filter_, penalty in cases]
    expected = [GOLDEN[f"unit/{rest}/x0"][row] for row, (_, rest) in zip(at, names, strict=True)]
    assert tokens.tolist() == expected
    expected = [GOLDEN[f"unit/{kind}{rest}/confidence"][row] for row, (kind, rest) in zip(at, names, strict=True)]
    np.testing.assert_allclose(confidence.cpu().numpy(), expected, rtol=1e-5, atol=2e-6)


def test_both_penalties_change_the_logits_as_the_reference_s(unit_logits: Tensor, unit_seen: Tensor) -> None:
    ids, first = torch.arange(200).expand(130, -1), torch.zeros(130, dtype=torch.int64)
    strength = position_strength(torch.arange(130), torch.full((130,), 130), torch.full((130,), 2.0))
    repeated = penalise_repetition(unit_logits, ids, torch.full((130,), 1.2), unit_seen, first)
    penalised = penalise(repeated, strength.unsqueeze(1))[[0, 99, 100, 101, 115, 129]]
    np.testing.assert_allclose(penalised.numpy(), GOLDEN["unit/mutated_rows_0_99_100_101_115_129"], rtol=1e-6)


def naive_kept(row: list[float], top_p: float, top_k: int) -> set[int]:
    """The rule of decoding.md, token by token, in double precision."""
    order = sorted(range(len(row)), key=lambda i: (-row[i], i))
    weights = np.exp(np.array(row) - max(row))
    kept: list[int] = []
    before = 0.0
    for i in order:
        if kept and before > top_p:
            break
        kept.append(i)
        before += weights[i] / weights.sum()
    if top_k and len(kept) >= top_k:
        kept = [i for i in kept if row[i] >= row[kept[top_k - 1]]]
    return set(kept)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_filters_keep_exactly_what_the_rule_says_ties_included(data: st.DataObject) -> None:
    vocabulary = data.draw(st.sampled_from([2, 3, 17, 300, 700]))
    seed = data.draw(st.integers(0, 2**31))
    levels = data.draw(st.sampled_from([2, 5, 40]))  # few levels: many ties
    top_p = data.draw(st.sampled_from([0.31, 0.77, 0.93, 1.0]))
    top_k = data.draw(st.integers(0, vocabulary + 3))
    logits = torch.randint(0, levels, (4, vocabulary), generator=torch.Generator().manual_seed(seed)).float() * 0.37
    kept = keep(logits, torch.full((4,), top_p), torch.full((4,), top_k))
    for row, values, ids in zip(logits.tolist(), kept.logits, kept.ids, strict=True):
        expected = naive_kept(row, top_p, top_k) if top_p < 1 else naive_kept(row, 2.0, top_k)
        found = set(ids[values > -torch.inf].tolist())
        near = abs(len(found) - len(expected)) <= 1 and top_p < 1  # the mass may fall on p but for rounding
        assert found == expected or near


def random_rows(seed: int, num_rows: int, vocabulary: int) -> tuple[Tensor, Tensor | None, RowParams]:
    g = torch.Generator().manual_seed(seed)

    def choice(values: list[float]) -> Tensor:
        return torch.tensor(values)[torch.randint(len(values), (num_rows,), generator=g)]

    guidance = choice([0.0, 2.0])
    start = torch.randint(0, vocabulary // 4, (num_rows,), generator=g)
    params = rows(
        num_rows,
        vocabulary,
        algorithm=torch.randint(len(ALGORITHMS), (num_rows,), generator=g),
        temperature=choice([0.0, 0.7, 1.3]),
        top_p=choice([0.5, 0.9, 1.0]),
        top_k=choice([0, 1, 5, 50]).long(),
        repetition_penalty=choice([1.0, 1.2]),
        position_strength=choice([1.0, 1.7]),
        guidance=guidance,
        seed=torch.randint(0, 2**40, (num_rows,), generator=g),
        step=torch.randint(0, 50, (num_rows,), generator=g),
        position=torch.randint(0, 500, (num_rows,), generator=g),
        allowed=torch.stack([start, start + vocabulary // 2], dim=1).unsqueeze(1),
        never=choice([-1, vocabulary // 3]).long(),
        request=torch.randint(0, 3, (num_rows,), generator=g),
        seen=torch.rand(3, vocabulary, generator=g) < 0.3,
    )
    logits = 2 * torch.randn(num_rows, vocabulary, generator=g)
    num_guided = int((guidance > 0).sum())
    return logits, torch.randn(num_guided, vocabulary, generator=g) if num_guided else None, params


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**31), num_rows=st.integers(1, 12), vocabulary=st.sampled_from([8, 61, 300, 1025]))
def test_rows_together_are_bit_for_bit_the_rows_alone(seed: int, num_rows: int, vocabulary: int) -> None:
    logits, logits_u, params = random_rows(seed, num_rows, vocabulary)
    tokens, confidence = sample(logits, logits_u, params)
    guided = 0
    for i in range(num_rows):
        is_guided = bool(params.guidance[i] > 0)
        alone_u = logits_u[guided : guided + 1] if is_guided and logits_u is not None else None
        guided += is_guided
        token, sureness = sample(logits[i : i + 1], alone_u, params.select(torch.tensor([i])))
        assert int(token) == int(tokens[i])
        assert float(sureness) == float(confidence[i])
        assert int(params.allowed[i, 0, 0]) <= int(token) < int(params.allowed[i, 0, 1])
        assert int(token) != int(params.never[i])


def test_cat_is_the_same_as_separate_calls() -> None:
    first, second = random_rows(1, 5, 61), random_rows(2, 3, 61)
    parts_u = [part for part in (first[1], second[1]) if part is not None]
    params = RowParams.cat([first[2], second[2]])
    tokens, confidence = sample(torch.cat([first[0], second[0]]), torch.cat(parts_u), params)
    apart = [sample(*first), sample(*second)]
    assert torch.equal(tokens, torch.cat([result[0] for result in apart]))
    assert torch.equal(confidence, torch.cat([result[1] for result in apart]))


def test_cat_fills_ranges_up() -> None:
    one = rows(1, 20)
    two = rows(1, 20, allowed=torch.tensor([[[3, 4], [5, 6]]]))
    tokens, _ = sample(torch.arange(20.0).repeat(2, 1), None, RowParams.cat([one, two]))
    assert tokens.tolist() == [19, 5]


def test_ties_go_to_the_lowest_id() -> None:
    logits = torch.zeros(3, 500)
    logits[:, [40, 7, 333]] = 2.0
    tokens, _ = sample(logits, None, rows(3, 500, top_k=torch.tensor([0, 2, 50]), top_p=torch.tensor([1.0, 0.9, 1.0])))
    assert tokens.tolist() == [7, 7, 7]


def test_a_penalty_that_makes_a_tie_leaves_it_to_the_lowest_id() -> None:
    logits = torch.tensor([[0.0, 2.0, 0.0, 4.0]])
    seen = torch.tensor([[False, False, False, True]])
    tokens, _ = sample(logits, None, rows(1, 4, top_k=2, repetition_penalty=2.0, seen=seen))
    assert tokens.tolist() == [1]


def test_penalties_act_after_the_filters_so_a_lone_token_is_out_of_their_reach() -> None:
    logits = torch.full((1, 300), -5.0)
    logits[0, 9] = 10.0
    seen = torch.ones(1, 300, dtype=torch.bool)
    tokens, confidence = sample(logits, None, rows(1, 300, top_p=0.9, top_k=50, repetition_penalty=9.0, seen=seen))
    assert tokens.tolist() == [9]
    assert confidence.tolist() == [0.0]


def test_a_forbidden_id_is_not_taken_but_keeps_its_weight_elsewhere() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [3.0, 1.0, 2.0]])
    tokens, confidence = sample(logits, None, rows(2, 3, never=1))
    free_tokens, free_confidence = sample(logits, None, rows(2, 3))
    assert tokens.tolist() == [2, 0]
    assert free_tokens.tolist() == [1, 0]
    assert confidence[1] == free_confidence[1]


def test_guidance_two_is_scale_three() -> None:
    conditional, unconditional = torch.tensor([[1.0, 0.0, 0.5]]), torch.tensor([[2.0, 0.0, 0.0]])
    tokens, confidence = sample(conditional, unconditional, rows(1, 3, guidance=2.0, algorithm=2))
    expected = torch.softmax(torch.tensor([-1.0, 0.0, 1.5]), dim=0)
    assert tokens.tolist() == [2]
    assert float(confidence) == pytest.approx(float(expected[2]), rel=1e-6)


def test_samples_follow_the_softmax() -> None:
    num_rows = 20000
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0]).repeat(num_rows, 1)
    tokens, _ = sample(logits, None, rows(num_rows, 4, temperature=2.0, seed=11))
    shares = torch.bincount(tokens, minlength=4) / num_rows
    assert torch.allclose(shares, torch.softmax(logits[0] / 2, dim=0), atol=0.015)


def test_logits_are_left_alone_and_bfloat16_is_taken() -> None:
    logits = torch.randn(4, 90, generator=torch.Generator().manual_seed(0)).bfloat16()
    before = logits.clone()
    params = rows(4, 90, allowed=torch.tensor([[10, 60]]).expand(4, 1, 2), top_p=0.9, top_k=20)
    assert torch.equal(sample(logits, None, params)[0], sample(logits.float(), None, params)[0])
    assert torch.equal(logits, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: replace(p, guidance=torch.ones(2)), "ask for guidance"),
        (lambda p: replace(p, seen=torch.zeros(1, 4, dtype=torch.bool)), "`seen` over 4"),
        (lambda p: replace(p, allowed=torch.zeros(2, 1, 2, dtype=torch.int64)), "no id at all"),
        (lambda p: p.select(torch.tensor([0])), "parameters of 1"),
    ],
)
def test_what_does_not_fit_together_is_refused(change: Callable[[RowParams], RowParams], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample(torch.zeros(2, 9), None, change(rows(2, 9)))


def test_select_takes_every_column_but_seen() -> None:
    params = rows(3, 5)
    picked = params.select(torch.tensor([2, 0]))
    assert picked.position.tolist() == [2, 0]
    assert all(len(getattr(picked, field.name)) == 2 for field in fields(picked) if field.name != "seen")
