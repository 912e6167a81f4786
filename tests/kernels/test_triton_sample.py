"""The Triton sampler against the reference: interpreted on a CPU, compiled where there is a CUDA device."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from unmask_kernels.confidence import ALGORITHMS
from unmask_kernels.rows import ANY, RowParams
from unmask_kernels.sample import sample

triton = pytest.importorskip("triton")

OMNI_VOCABULARY = 176_264
NUMPY_MAY_WARN = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # in the interpreter
TEXT, AUDIO, IMAGE = (0, 151_643), (151_688, 168_072), (168_072, 176_264)


def rows(num_rows: int, vocabulary: int, **values: float | Tensor) -> RowParams:
    """The filters of the presets, no penalty, the best token; but for the given values."""
    zeros = torch.zeros(num_rows, dtype=torch.int64)
    params = RowParams(
        algorithm=zeros,
        temperature=torch.zeros(num_rows),
        top_p=torch.full((num_rows,), 0.9),
        top_k=torch.full_like(zeros, 50),
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


def mixed(seed: int, num_rows: int, vocabulary: int) -> tuple[Tensor, Tensor | None, RowParams]:
    """A call whose rows differ in every parameter."""
    g = torch.Generator().manual_seed(seed)

    def choice(values: list[float]) -> Tensor:
        return torch.tensor(values)[torch.randint(len(values), (num_rows,), generator=g)]

    def below(limit: int) -> Tensor:
        return torch.randint(0, limit, (num_rows,), generator=g)

    start = below(vocabulary // 4)
    guidance = choice([0.0, 2.0])
    params = rows(
        num_rows,
        vocabulary,
        algorithm=below(len(ALGORITHMS)),
        temperature=choice([0.0, 0.7, 1.3]),
        top_p=choice([0.5, 0.9, 1.0]),
        top_k=choice([0, 1, 5, 50]).long(),
        repetition_penalty=choice([1.0, 1.2]),
        position_strength=choice([1.0, 1.7]),
        guidance=guidance,
        seed=below(2**62),
        step=below(50),
        position=below(500),
        allowed=torch.stack([start, start + vocabulary // 3, start + vocabulary // 2, start + vocabulary // 2 + 9], 1)
        .view(num_rows, 2, 2)
        .clamp(max=vocabulary),
        never=choice([ANY, vocabulary // 3]).long(),
        request=below(3),
        seen=torch.rand(3, vocabulary, generator=g) < 0.3,
    )
    num_guided = int((guidance > 0).sum())
    logits_u = torch.randn(num_guided, vocabulary, generator=g) if num_guided else None
    return 2 * torch.randn(num_rows, vocabulary, generator=g), logits_u, params


def run(
    logits_c: Tensor, logits_u: Tensor | None, params: RowParams, device: torch.device
) -> tuple[list[int], list[float]]:
    """Tokens and confidence of the Triton sampler, after a look whether they are those of the reference."""
    there = None if logits_u is None else logits_u.to(device)
    tokens, confidence = sample(logits_c.to(device), there, params.to(device), impl="triton")
    expected_tokens, expected = sample(logits_c, logits_u, params, impl="reference")
    assert tokens.tolist() == expected_tokens.tolist()
    # Below 2e-6 an entropy is the rounding of a probability close to 1.
    torch.testing.assert_close(confidence.cpu(), expected, rtol=1e-5, atol=2e-6)
    return tokens.tolist(), confidence.tolist()


@pytest.mark.parametrize(
    ("num_rows", "vocabulary", "dtype"),
    [
        (1, 8, torch.float32),
        (5, 61, torch.float16),
        (6, 1025, torch.bfloat16),
        (6, 4096, torch.float32),
        (4, 8999, torch.bfloat16),
    ],
)
def test_mixed_rows_are_the_reference_s(
    num_rows: int, vocabulary: int, dtype: torch.dtype, device: torch.device
) -> None:
    logits, logits_u, params = mixed(vocabulary, num_rows, vocabulary)
    run(logits.to(dtype), None if logits_u is None else logits_u.to(dtype), params, device)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_many_mixed_rows_are_the_reference_s(seed: int, device: torch.device) -> None:
    run(*mixed(seed, 12, [8, 61, 300, 1025, 5000][seed % 5]), device)


def test_a_row_does_not_depend_on_the_others(device: torch.device) -> None:
    logits, logits_u, params = mixed(7, 6, 700)
    tokens, confidence = run(logits, logits_u, params, device)
    is_guided = params.guidance > 0
    guided_row = torch.cumsum(is_guided, dim=0) - 1
    for i in range(len(params)):
        row = torch.tensor([i])
        alone_u = None if logits_u is None or not is_guided[i] else logits_u[guided_row[row]]
        token, sureness = run(logits[row], alone_u, params.select(row), device)
        assert (token, sureness) == (tokens[i : i + 1], confidence[i : i + 1])


def test_the_large_vocabulary(device: torch.device) -> None:
    g = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4, OMNI_VOCABULARY, generator=g)
    logits[:2, ::1000] += 12
    params = rows(
        4,
        OMNI_VOCABULARY,
        allowed=torch.tensor([[TEXT, (0, 0)], [TEXT, AUDIO], [IMAGE, (0, 0)], [(0, OMNI_VOCABULARY), (0, 0)]]),
        temperature=torch.tensor([0.0, 1.0, 0.0, 0.0]),
        repetition_penalty=1.2,
        guidance=torch.tensor([0.0, 0.0, 2.0, 0.0]),
        never=151_666,
        seen=torch.rand(1, OMNI_VOCABULARY, generator=g) < 0.5,
    )
    run(logits.bfloat16(), torch.randn(1, OMNI_VOCABULARY, generator=g).bfloat16(), params, device)


def test_the_large_vocabulary_in_half_precision(device: torch.device) -> None:
    g = torch.Generator().manual_seed(12)
    logits = (3 * torch.randn(2, OMNI_VOCABULARY, generator=g)).half()
    logits[0, 170_000] = 60_000.0  # nearly the largest there is
    logits[1, 5::7] = -torch.inf
    params = rows(2, OMNI_VOCABULARY, seen=torch.rand(1, OMNI_VOCABULARY, generator=g) < 0.5, repetition_penalty=1.2)
    tokens, confidence = run(logits, None, params, device)
    assert tokens[0] == 170_000
    one = torch.tensor([1])
    assert run(logits[one], None, params.select(one), device) == (tokens[1:], confidence[1:])


def test_ties_go_to_the_lowest_id(device: torch.device) -> None:
    logits = torch.zeros(4, 500)
    logits[:3, [40, 7, 333]] = 2.0  # the last row is all equal
    params = rows(4, 500, top_k=torch.tensor([0, 2, 50, 50]), top_p=torch.tensor([1.0, 0.9, 1.0, 1.0]))
    assert run(logits, None, params, device)[0] == [7, 7, 7, 0]


@pytest.mark.parametrize("algorithm", ["entropy", "topk_margin", "maskgit_plus"])
def test_where_the_nucleus_ends_among_equals(algorithm: str, device: torch.device) -> None:
    params = rows(3, 40, top_p=torch.tensor([0.5, 0.9, 0.25]), top_k=0, algorithm=ALGORITHMS.index(algorithm))
    run(torch.zeros(3, 40), None, params, device)


def test_rows_with_more_survivors_than_candidates(device: torch.device) -> None:
    g = torch.Generator().manual_seed(3)
    logits = torch.randn(5, 3000, generator=g)
    logits[2] = torch.randint(0, 2, (3000,), generator=g).float()  # ties at the k-th logit
    params = rows(
        5,
        3000,
        top_p=torch.tensor([0.9, 1.0, 1.0, 1.0, 1.0]),
        top_k=torch.tensor([0, 600, 50, 128, 127]),
        temperature=torch.tensor([0.8, 0.0, 0.0, 0.0, 1.0]),
        repetition_penalty=1.3,
        seen=torch.rand(1, 3000, generator=g) < 0.5,
    )
    run(logits, None, params, device)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_rows_without_a_filter(temperature: float, device: torch.device) -> None:
    g = torch.Generator().manual_seed(4)
    logits = 2 * torch.randn(5, 5000, generator=g)
    logits[4, 11] = 30.0
    params = rows(
        5,
        5000,
        top_p=1.0,
        top_k=torch.tensor([0, 0, 0, 5000, 0]),
        algorithm=torch.tensor([0, 1, 2, 3, 0]),
        temperature=temperature,
        repetition_penalty=1.3,
        position_strength=1.4,
        guidance=torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0]),
        allowed=torch.tensor([0, 4321]).expand(5, 1, 2),
        seen=torch.rand(1, 5000, generator=g) < 0.5,
    )
    run(logits, torch.randn(1, 5000, generator=g), params, device)


def test_infinities(device: torch.device) -> None:
    logits = torch.randn(4, 300, generator=torch.Generator().manual_seed(5))
    logits[:, ::3] = -torch.inf
    logits[1] = logits[3] = -torch.inf
    logits[1, 17] = logits[3, 17] = -4.0
    params = rows(4, 300, top_k=torch.tensor([50, 50, 0, 0]), top_p=torch.tensor([0.9, 0.9, 1.0, 1.0]))
    tokens, confidence = run(logits, None, params, device)
    assert (tokens[1], tokens[3]) == (17, 17)
    assert (confidence[1], confidence[3]) == (0.0, 0.0)


@NUMPY_MAY_WARN
@pytest.mark.parametrize(("top_p", "top_k"), [(0.9, 50), (0.9, 0), (1.0, 50), (1.0, 0)])
def test_an_infinite_logit_is_taken(top_p: float, top_k: int, device: torch.device) -> None:
    logits = torch.randn(2, 300, generator=torch.Generator().manual_seed(9))
    logits[:, [80, 250]] = torch.inf
    params = rows(2, 300, top_p=top_p, top_k=top_k, algorithm=torch.tensor([0, ALGORITHMS.index("origin")]))
    tokens, confidence = sample(logits.to(device), None, params.to(device), impl="triton")
    expected = sample(logits, None, params, impl="reference")[1]
    assert tokens.tolist() == [80, 80]
    torch.testing.assert_close(confidence.cpu(), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("top_k", [0, 129, pytest.param(300, marks=pytest.mark.slow)])
def test_where_a_wide_nucleus_ends_among_equals(top_k: int, device: torch.device) -> None:
    """More survivors than candidates, in several blocks of ids; the last row takes a few of its second level."""
    logits = torch.zeros(4, 5000)
    logits[2, ::3] = 1.5
    logits[3, 1::25] = 3.0
    params = rows(
        4,
        5000,
        top_p=torch.tensor([0.5, 0.123, 0.9, 0.46]),
        top_k=top_k,
        never=torch.tensor([0, ANY, 3, ANY]),
        repetition_penalty=1.3,
        algorithm=torch.tensor([0, 1, 2, 0]),
        seen=torch.rand(1, 5000, generator=torch.Generator().manual_seed(2)) < 0.3,
    )
    logits += 1
    run(logits, None, params, device)


def test_a_forbidden_id_with_nearly_all_the_mass(device: torch.device) -> None:
    logits = torch.randn(3, 700, generator=torch.Generator().manual_seed(10))
    logits[:, 33] = 40.0
    params = rows(3, 700, never=33, top_p=torch.tensor([0.9, 0.9, 1.0]), top_k=torch.tensor([50, 0, 0]))
    tokens, confidence = run(logits, None, params, device)
    assert 33 not in tokens
    assert max(confidence) < -1


@NUMPY_MAY_WARN
def test_one_row_of_nan_hurts_no_other(device: torch.device) -> None:
    logits = torch.randn(3, 200, generator=torch.Generator().manual_seed(6))
    expected = run(logits[::2], None, rows(2, 200), device)
    logits[1, ::2] = torch.nan
    tokens, confidence = sample(logits.to(device), None, rows(3, 200).to(device), impl="triton")
    assert (tokens[::2].tolist(), confidence[::2].tolist()) == expected
    assert 0 <= int(tokens[1]) < 200


def test_a_lone_token_is_out_of_the_penalties_reach_and_exactly_sure(device: torch.device) -> None:
    logits = torch.full((1, 300), -5.0)
    logits[0, 9] = 10.0
    params = rows(1, 300, repetition_penalty=9.0, seen=torch.ones(1, 300, dtype=torch.bool))
    assert run(logits, None, params, device) == ([9], [0.0])


def test_a_penalty_may_change_the_token(device: torch.device) -> None:
    logits = torch.tensor([[0.0, 2.0, 0.0, 4.0]])
    params = rows(1, 4, top_p=1.0, top_k=2, repetition_penalty=2.0, seen=torch.tensor([[False, False, False, True]]))
    assert run(logits, None, params, device)[0] == [1]


@pytest.mark.parametrize(("top_p", "top_k"), [(0.9, 50), (1.0, 0)])
def test_a_forbidden_id_is_not_taken_but_keeps_its_weight_elsewhere(
    top_p: float, top_k: int, device: torch.device
) -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [2.0, 1.0, 1.5]]).repeat(1, 100)
    params = rows(2, 300, never=1, top_p=top_p, top_k=top_k)
    assert run(logits, None, params, device)[0] == [4, 0]


def test_a_preset_s_rows_are_settled_by_their_candidates(device: torch.device) -> None:
    from unmask_kernels.triton_sample import _sample_settled
    from unmask_kernels.triton_support import RowArguments

    g = torch.Generator().manual_seed(8)
    logits = torch.randn(3, 3000, generator=g)  # top-k cuts the nucleus in the first row only
    logits[1:] *= 5
    params = rows(3, 3000, repetition_penalty=1.2, seen=torch.rand(1, 3000, generator=g) < 0.5)
    expected = run(logits, None, params, device)
    there = params.to(device)
    tokens, confidence, is_settled = _sample_settled(RowArguments.of(logits.to(device), None, there), there)
    assert is_settled.tolist() == [1, 1, 1]
    assert (tokens.tolist(), confidence.tolist()) == expected


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")
def test_the_host_does_not_wait_for_the_device() -> None:
    logits, logits_u, params = mixed(11, 6, 3000)
    there = None if logits_u is None else logits_u.cuda()
    logits, params = logits.cuda(), params.to(torch.device("cuda"))
    sample(logits, there, params, impl="triton")  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        sample(logits, there, params, impl="triton")
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_zero_and_minus_zero_are_equal(device: torch.device) -> None:
    logits = torch.full((2, 300), -1.0)
    logits[0, 5], logits[0, 3] = 0.0, -0.0
    logits[1, ::2], logits[1, 1::2] = 0.0, -0.0
    params = rows(2, 300, top_p=torch.tensor([0.9, 0.123]), top_k=torch.tensor([2, 0]))
    assert run(logits, None, params, device)[0] == [3, 0]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_row_of_one_id(algorithm: str, device: torch.device) -> None:
    assert run(torch.zeros(1, 1), None, rows(1, 1, algorithm=ALGORITHMS.index(algorithm)), device)[0] == [0]


def test_no_rows(device: torch.device) -> None:
    assert run(torch.zeros(0, 9), None, rows(0, 9), device) == ([], [])


def test_without_cuda_and_interpreter_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    with pytest.raises(ValueError, match="needs CUDA tensors"):
        sample(torch.zeros(1, 9), None, rows(1, 9), impl="triton")
