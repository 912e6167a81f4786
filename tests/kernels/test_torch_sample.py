"""impl="torch" is impl="reference", bit for bit, and a row's result does not depend on its neighbours."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unmask_kernels.confidence import ALGORITHMS
from unmask_kernels.rows import ANY, RowParams
from unmask_kernels.sample import sample

FULL = 176264
AUDIO = [(198, 199), (151643, 151644), (151645, 151646), (151684, 151686), (151688, 168072)]
IMAGE = [(168072, 176264)]
Call = tuple[Tensor, Tensor | None, RowParams]


def allowed(rows: list[list[tuple[int, int]]]) -> Tensor:
    most = max(map(len, rows))
    return torch.tensor([ranges + [(0, 0)] * (most - len(ranges)) for ranges in rows])


def neutral(num_rows: int, vocabulary: int) -> RowParams:
    zeros, ones = torch.zeros(num_rows), torch.ones(num_rows)
    return RowParams(
        algorithm=zeros.long(),
        temperature=zeros,
        top_p=ones,
        top_k=zeros.long(),
        repetition_penalty=ones,
        position_strength=ones,
        guidance=zeros,
        seed=zeros.long(),
        step=zeros.long(),
        position=torch.arange(num_rows),
        allowed=torch.tensor([[0, vocabulary]]).expand(num_rows, 1, 2),
        never=torch.full((num_rows,), ANY),
        request=zeros.long(),
        seen=torch.zeros(1, vocabulary, dtype=torch.bool),
    )


def mixed(g: torch.Generator, num_rows: int, vocabulary: int) -> RowParams:
    """Every parameter drawn for each row, ranges that share no power of two among them."""

    def pick(values: list[float]) -> Tensor:
        return torch.tensor(values)[torch.randint(len(values), (num_rows,), generator=g)]

    third = vocabulary // 3
    spans = [
        [(0, vocabulary)],
        [(third, vocabulary)],
        [(third, third + 1)],
        [(0, 2), (third, 2 * third)],
        [(2 * third, vocabulary), (1, third), (2, 4)],
    ]
    return RowParams(
        algorithm=torch.randint(len(ALGORITHMS), (num_rows,), generator=g),
        temperature=pick([0.0, 0.0, 0.7, 1.3]),
        top_p=pick([0.3, 0.9, 1.0]),
        top_k=pick([0, 1, 5, 50, 10**6]).long(),
        repetition_penalty=pick([1.0, 1.2]),
        position_strength=pick([1.0, 1.7]),
        guidance=pick([0.0, 2.0]),
        seed=torch.randint(2**40, (num_rows,), generator=g),
        step=torch.randint(50, (num_rows,), generator=g),
        position=torch.randint(500, (num_rows,), generator=g),
        allowed=allowed([spans[int(i)] for i in torch.randint(len(spans), (num_rows,), generator=g)]),
        never=pick([ANY, 0, vocabulary - 1]).long(),
        request=torch.randint(3, (num_rows,), generator=g),
        seen=torch.rand(3, vocabulary, generator=g) < 0.3,
    )


def draw(g: torch.Generator, num_rows: int, vocabulary: int, levels: int, dtype: torch.dtype) -> Tensor:
    """Logits: normal with 0 levels, else of so few distinct values that there are many ties, some of them -inf."""
    if levels == 0:
        return (3 * torch.randn(num_rows, vocabulary, generator=g)).to(dtype)
    logits = torch.randint(levels, (num_rows, vocabulary), generator=g) * 0.37 - 1
    return logits.masked_fill(torch.rand(num_rows, vocabulary, generator=g) < 0.2, -torch.inf).to(dtype)


def call(seed: int, num_rows: int, vocabulary: int, levels: int = 0, dtype: torch.dtype = torch.float32) -> Call:
    g = torch.Generator().manual_seed(seed)
    params = mixed(g, num_rows, vocabulary)
    logits_c = draw(g, num_rows, vocabulary, levels, dtype)
    if levels:  # what a row may take is not all -inf, so that there is an answer
        logits_c[:, [vocabulary // 3, vocabulary // 2]] = 1
        params = replace(params, guidance=torch.zeros(num_rows), never=torch.full((num_rows,), ANY))
    num_guided = int((params.guidance > 0).sum())
    return logits_c, draw(g, num_guided, vocabulary, 0, dtype) if num_guided else None, params


def check(logits_c: Tensor, logits_u: Tensor | None, params: RowParams) -> tuple[Tensor, Tensor]:
    """The result, once it is that of the reference."""
    before = logits_c.clone()
    tokens, confidence = sample(logits_c, logits_u, params, impl="torch")
    expected = sample(logits_c, logits_u, params, impl="reference")
    assert torch.equal(tokens, expected[0])
    assert torch.allclose(confidence, expected[1], rtol=0, atol=0, equal_nan=True)
    assert torch.equal(logits_c, before)
    return tokens, confidence


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    num_rows=st.integers(1, 9),
    vocabulary=st.sampled_from([8, 61, 300, 1025, 5000]),
    levels=st.sampled_from([0, 0, 1, 3, 40]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_rows_of_mixed_parameters(seed: int, num_rows: int, vocabulary: int, levels: int, dtype: torch.dtype) -> None:
    check(*call(seed, num_rows, vocabulary, levels, dtype))


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**31), vocabulary=st.sampled_from([61, 1025, 5000]))
def test_rows_together_are_bit_for_bit_the_rows_alone(seed: int, vocabulary: int) -> None:
    logits_c, logits_u, params = call(seed, 7, vocabulary)
    tokens, confidence = sample(logits_c, logits_u, params, impl="torch")
    guided = 0
    for i in range(7):
        is_guided = bool(params.guidance[i] > 0)
        alone_u = logits_u[guided : guided + 1] if is_guided and logits_u is not None else None
        guided += is_guided
        token, sureness = sample(logits_c[i : i + 1], alone_u, params.select(slice(i, i + 1)), impl="torch")
        assert torch.equal(token, tokens[i : i + 1])
        assert torch.equal(sureness, confidence[i : i + 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_full_vocabulary(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(3)
    num_rows = 9
    spans = [[(0, FULL)], [(0, FULL)], [(0, FULL)], IMAGE, IMAGE, AUDIO, [(0, 151643)], [(0, FULL)], [(0, FULL)]]
    params = replace(
        neutral(num_rows, FULL),
        algorithm=torch.arange(num_rows) % len(ALGORITHMS),
        temperature=torch.tensor([0.0, 0.0, 0.8, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
        top_p=torch.tensor([0.9, 0.9, 0.9, 0.9, 1.0, 0.9, 0.9, 0.9, 1.0]),
        top_k=torch.tensor([50, 50, 50, 50, 0, 50, 50, 0, 0]),
        repetition_penalty=torch.full((num_rows,), 1.2),
        position_strength=torch.linspace(1, 2, num_rows),
        guidance=torch.tensor([0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
        allowed=allowed(spans),
        seen=torch.rand(1, FULL, generator=g) < 0.01,
    )
    logits_c = draw(g, num_rows, FULL, 0, dtype)
    params.never[0] = int(sample(logits_c[:1], None, params.select(slice(0, 1)), impl="torch")[0])
    tokens, confidence = check(logits_c, draw(g, 1, FULL, 0, dtype), params)
    for token, ranges in zip(tokens.tolist(), spans, strict=True):
        assert any(start <= token < stop for start, stop in ranges)
    assert int(tokens[0]) != int(params.never[0])
    alone = sample(logits_c[4:5], None, params.select(slice(4, 5)), impl="torch")
    assert torch.equal(alone[1], confidence[4:5])


def test_equal_logits_beyond_those_looked_at_first() -> None:
    params = replace(
        neutral(5, 20000),
        top_k=torch.tensor([50, 50, 50, 0, 50]),
        top_p=torch.tensor([0.9, 0.9, 1.0, 0.9, 0.9]),
    )
    logits = torch.zeros(5, 20000)
    logits[1, 400:1400] = 1.0
    logits[2, 3000:3070] = 9.0
    logits[4] = torch.randn(20000, generator=torch.Generator().manual_seed(0))  # a row that is done at once
    assert check(logits, None, params)[0].tolist()[:4] == [0, 400, 3000, 0]


def test_a_full_row_of_equal_logits() -> None:
    params = replace(neutral(1, FULL), top_k=torch.tensor([50]), top_p=torch.tensor([0.9]))
    tokens, confidence = check(torch.full((1, FULL), -3.0, dtype=torch.float16), None, params)
    assert tokens.tolist() == [0]
    assert float(confidence) == pytest.approx(-math.log(0.9 * FULL), rel=1e-4)


def test_a_row_of_nan_hurts_no_other() -> None:
    logits = torch.randn(3, 5000, generator=torch.Generator().manual_seed(6))
    params = replace(neutral(3, 5000), top_k=torch.full((3,), 50), top_p=torch.full((3,), 0.9))
    expected = check(logits[::2], None, params.select(slice(None, None, 2)))
    logits[1, ::2] = torch.nan
    tokens, confidence = sample(logits, None, params, impl="torch")
    assert torch.equal(tokens[::2], expected[0])
    assert torch.equal(confidence[::2], expected[1])
    assert 0 <= int(tokens[1]) < 5000


def test_infinite_logits() -> None:
    logits = torch.full((3, 9000), -torch.inf)
    logits[:, 77] = 1.0
    logits[1, 5000] = 1.0
    logits[2, 8000] = -60000.0
    params = replace(neutral(3, 9000), top_k=torch.full((3,), 50), top_p=torch.full((3,), 0.9))
    assert check(logits, None, params)[0].tolist() == [77, 77, 77]
    assert check(logits, None, neutral(3, 9000))[0].tolist() == [77, 77, 77]


def test_an_infinite_logit_is_taken() -> None:
    logits = torch.randn(2, 9000, generator=torch.Generator().manual_seed(2))
    logits[:, [80, 7000]] = torch.inf
    for filters in ({}, {"top_k": torch.full((2,), 50), "top_p": torch.full((2,), 0.9)}):
        tokens, confidence = check(logits, None, replace(neutral(2, 9000), **filters))
        assert tokens.tolist() == [80, 80]
        assert bool(confidence.isnan().all())


def test_more_rows_than_fit_the_workspace() -> None:
    logits = torch.randn(300, 5000, generator=torch.Generator().manual_seed(1))
    check(logits, None, replace(neutral(300, 5000), top_k=torch.full((300,), 50), top_p=torch.full((300,), 0.9)))


def test_no_rows() -> None:
    tokens, confidence = sample(torch.zeros(0, 9), None, neutral(0, 9), impl="torch")
    assert (len(tokens), len(confidence)) == (0, 0)
