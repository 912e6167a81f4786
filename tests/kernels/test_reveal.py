import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from unmask_kernels.noise import REVEAL_STREAM, TOKEN_STREAM, gumbel, uniform
from unmask_kernels.ordered import row_softmax, row_sum
from unmask_kernels.reveal import BY_RANK, RevealParams, reveal


def params(request: list[int], counts: list[int], **changes: Tensor) -> RevealParams:
    num_rows = len(request)
    values = {
        "temperature": torch.zeros(num_rows),
        "uniform": torch.full((num_rows,), 0.5),
        "probability": torch.full((num_rows,), BY_RANK),
    } | changes
    return RevealParams(torch.tensor(request, dtype=torch.int64), torch.tensor(counts), **values)


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    levels=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)
def test_the_most_confident_rows_of_each_request_then_the_leftmost(sizes: list[int], levels: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    request = [i for i, size in enumerate(sizes) for _ in range(size)]
    counts = [int(torch.randint(0, size + 1, (), generator=g)) for size in sizes]
    confidence = torch.randint(0, levels, (len(request),), generator=g).float()
    found = reveal(confidence, params(request, counts)).nonzero().flatten().tolist()
    expected = []
    for i, count in enumerate(counts):
        own = [row for row, owner in enumerate(request) if owner == i]
        expected += sorted(own, key=lambda row: (-float(confidence[row]), row))[:count]
    assert found == sorted(expected)


def test_all_equal_takes_the_lowest_index() -> None:
    assert reveal(torch.zeros(32), params([0] * 32, [2])).nonzero().flatten().tolist() == [0, 1]


@pytest.mark.parametrize("count", range(1, 8))
def test_what_is_no_number_goes_first_then_what_is_infinite(count: int) -> None:
    confidence = torch.tensor([-torch.inf, -1.0, torch.nan, torch.inf, -2.0, -torch.nan, -1.0])
    order = [2, 5, 3, 1, 6, 4, 0]
    assert reveal(confidence, params([0] * 7, [count])).nonzero().flatten().tolist() == sorted(order[:count])


@pytest.mark.parametrize("confidence", [0.0, -5.0, -torch.inf, torch.inf, torch.nan])
def test_one_masked_position(confidence: float) -> None:
    assert reveal(torch.tensor([confidence]), params([0], [1])).tolist() == [True]
    assert reveal(torch.tensor([confidence]), params([0], [0])).tolist() == [False]


def test_algorithm_temperature_samples_in_proportion() -> None:
    confidence = torch.tensor([0.0, 1.0, 2.0]).repeat(4000)
    request = torch.arange(4000).repeat_interleave(3)
    draws = uniform(torch.zeros_like(request), REVEAL_STREAM, request, torch.arange(len(request)))
    drawn = RevealParams(
        request=request,
        counts=torch.ones(4000, dtype=torch.int64),
        temperature=torch.full((12000,), 0.5),
        uniform=draws,
        probability=torch.full((12000,), BY_RANK),
    )
    found = reveal(confidence, drawn).view(4000, 3)
    assert bool((found.sum(dim=1) == 1).all())
    expected = torch.softmax(torch.tensor([0.0, 2.0, 4.0]), dim=0)
    assert torch.allclose(found.float().mean(dim=0), expected, atol=0.02)


def test_origin_commits_each_row_by_its_own_chance() -> None:
    changes = {"uniform": torch.tensor([0.1, 0.6, 0.3, 0.2]), "probability": torch.tensor([0.4, 0.4, 0.4, BY_RANK])}
    assert reveal(torch.zeros(4), params([0, 0, 0, 1], [99, 1], **changes)).tolist() == [True, False, True, True]


@given(seed=st.integers(0, 2**63 - 1), step=st.integers(0, 4000), position=st.integers(0, 4000))
def test_noise_is_a_function_of_its_counters_and_strictly_inside(seed: int, step: int, position: int) -> None:
    seeds, steps, positions = (torch.tensor([value, 5]) for value in (seed, step, position))
    draws = uniform(seeds, TOKEN_STREAM, steps, positions)
    alone = uniform(seeds[:1], TOKEN_STREAM, steps[:1], positions[:1])
    assert draws[0] == alone[0]
    assert bool(((draws > 0) & (draws < 1) & gumbel(draws).isfinite()).all())


def test_noise_is_even_and_its_counters_do_not_mirror_one_another() -> None:
    i = torch.arange(200)
    step, position = torch.meshgrid(i, i, indexing="ij")
    zeros = torch.zeros_like(step)
    grid = uniform(zeros, TOKEN_STREAM, step, position)
    histogram = torch.histc(grid, 20, 0, 1) / grid.numel()
    assert torch.allclose(histogram, torch.full((20,), 0.05), atol=0.006)
    assert float((grid == grid.T).float().mean()) < 0.01
    for other in (uniform(zeros + 1, TOKEN_STREAM, step, position), uniform(zeros, REVEAL_STREAM, step, position)):
        assert abs(float(torch.corrcoef(torch.stack([grid.flatten(), other.flatten()]))[0, 1])) < 0.02


@given(width=st.integers(1, 300), extra=st.integers(0, 300), seed=st.integers(0, 1000))
def test_row_sums_do_not_depend_on_neighbours_or_zero_padding(width: int, extra: int, seed: int) -> None:
    values = torch.rand(3, width, generator=torch.Generator().manual_seed(seed))
    padded = torch.cat([values, torch.zeros(3, extra)], dim=1)
    assert torch.equal(row_sum(values), row_sum(padded))
    assert torch.equal(row_sum(values)[1:2], row_sum(values[1:2]))
    assert torch.allclose(row_sum(values).double(), values.double().sum(dim=1), rtol=1e-5)
    assert torch.allclose(row_softmax(values), torch.softmax(values, dim=1), rtol=1e-4)
