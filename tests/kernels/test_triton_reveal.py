"""`reveal` in Triton against the reference: interpreted on a CPU, compiled where there is a CUDA device."""

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from unmask_kernels.reveal import BY_RANK, RevealParams, reveal

pytest.importorskip("triton")


def params(request: list[int], counts: list[int], **changes: Tensor) -> RevealParams:
    num_rows = len(request)
    values = {
        "temperature": torch.zeros(num_rows),
        "uniform": torch.full((num_rows,), 0.5),
        "probability": torch.full((num_rows,), BY_RANK),
    } | changes
    return RevealParams(torch.tensor(request, dtype=torch.int64), torch.tensor(counts), **values)


def run(confidence: Tensor, given: RevealParams, device: torch.device) -> list[bool]:
    """What the Triton version commits, after a look whether it is what the reference commits."""
    there = RevealParams(**{field.name: getattr(given, field.name).to(device) for field in fields(given)})
    found: list[bool] = reveal(confidence.to(device), there, impl="triton").tolist()
    assert found == reveal(confidence, given, impl="reference").tolist()
    return found


def mixed(sizes: list[int], levels: int, seed: int) -> tuple[Tensor, RevealParams]:
    """Ranked, drawn and `origin` rows of requests of the given sizes; confidence takes as many values as `levels`."""
    g = torch.Generator().manual_seed(seed)
    request = [i for i, size in enumerate(sizes) for _ in range(size)]
    counts = [int(torch.randint(0, size + 1, (), generator=g)) for size in sizes]

    def some(share: float, value: float, otherwise: float) -> Tensor:
        return torch.where(torch.rand(len(request), generator=g) < share, value, otherwise)

    return -torch.randint(0, levels, (len(request),), generator=g).float() / 3, params(
        request,
        counts,
        temperature=some(0.3, 0.7, 0.0),
        uniform=torch.rand(len(request), generator=g).clamp(1e-6, 1 - 1e-6),
        probability=some(0.2, 0.4, BY_RANK),
    )


@pytest.mark.parametrize(
    "sizes", [[1], [64], [65], [0, 3, 0, 0, 61, 2], [7] * 30, [63, 1, 129, 2], [0, 300], [600]], ids=str
)
@pytest.mark.parametrize("levels", [1, 3, 10_000])
def test_it_commits_what_the_reference_does(sizes: list[int], levels: int, device: torch.device) -> None:
    run(*mixed(sizes, levels, seed=len(sizes)), device)


def test_all_equal_takes_the_lowest_index(device: torch.device) -> None:
    found = run(torch.zeros(200), params([0] * 130 + [1] * 70, [2, 1]), device)
    assert [i for i, is_committed in enumerate(found) if is_committed] == [0, 1, 130]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_confidence_that_is_no_number_takes_no_more_rows_than_are_counted(
    temperature: float, device: torch.device
) -> None:
    confidence = -torch.rand(140, generator=torch.Generator().manual_seed(4))
    confidence[::9], confidence[1::9] = torch.nan, -torch.nan
    confidence[2::9], confidence[3::9] = torch.inf, -torch.inf
    given = params([0] * 70 + [1] * 70, [5, 40], temperature=torch.full((140,), temperature))
    found = run(confidence, given, device)
    assert (sum(found[:70]), sum(found[70:])) == (5, 40)


def test_what_is_no_number_goes_first_then_what_is_infinite(device: torch.device) -> None:
    confidence = torch.tensor([-torch.inf, -1.0, torch.nan, torch.inf, -2.0, -torch.nan, -1.0]).repeat(3)
    found = run(confidence, params([0] * 7 + [1] * 7 + [2] * 7, [2, 3, 6]), device)
    committed = [[i for i in range(7) if found[7 * request + i]] for request in range(3)]
    assert committed == [[2, 5], [2, 3, 5], [1, 2, 3, 4, 5, 6]]


@pytest.mark.parametrize("confidence", [-5.0, -torch.inf, torch.nan])
def test_one_masked_position(confidence: float, device: torch.device) -> None:
    assert run(torch.tensor([confidence]), params([0], [1]), device) == [True]


def test_a_request_does_not_depend_on_the_others(device: torch.device) -> None:
    confidence, together = mixed([50, 33, 90], 20, seed=1)
    found = run(confidence, together, device)
    rows = slice(50, 83)
    alone = params(
        [0] * 33,
        [int(together.counts[1])],
        temperature=together.temperature[rows],
        uniform=together.uniform[rows],
        probability=together.probability[rows],
    )
    assert run(confidence[rows], alone, device) == found[rows]


def test_no_rows(device: torch.device) -> None:
    assert run(torch.zeros(0), params([], [0]), device) == []
