"""What a layer does between its products, in Triton: how far from float64, with eager torch as the yardstick."""

import pytest
import torch
from torch import Tensor

from unmask_kernels.rowwise import add_norm, gate, rotate

pytest.importorskip("triton")
# Triton's interpreter cuts float32 off where it should round it to bfloat16.
HALVES = [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)]
EPS = 1e-6


def drawn(*shape: int, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def is_as_close(found: Tensor, eager: Tensor, truth: Tensor) -> None:
    assert found.dtype == eager.dtype
    assert found.shape == truth.shape
    error, yardstick = ((x.double() - truth.double()).norm() for x in (found, eager))
    assert error <= 1.02 * yardstick + 1e-6 * truth.double().norm()


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
@pytest.mark.parametrize("sum_dtype", [None, torch.float32])
@pytest.mark.parametrize(("num_rows", "size"), [(1, 64), (5, 256), (3, 3584), (7, 100)])
def test_sum_and_norm(
    num_rows: int, size: int, dtype: torch.dtype, sum_dtype: torch.dtype | None, device: torch.device
) -> None:
    x = drawn(num_rows, size, dtype=sum_dtype or dtype, device=device)
    delta, weight = (drawn(*s, dtype=dtype, device=device, seed=1) for s in ((num_rows, size), (size,)))
    rows = torch.tensor([0, num_rows // 2, num_rows - 1], device=device)
    for given, picked in ((None, None), (delta, None), (delta[rows], rows)):
        total, normed = add_norm(x, given, weight, EPS, rows=picked, impl="triton")
        expected, eager = add_norm(x, given, weight, EPS, rows=picked)
        assert torch.equal(total, expected)
        is_as_close(normed, eager, add_norm(expected.double(), None, weight.double(), EPS)[1])


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    ("num_rows", "num_heads", "num_kv_heads", "size"), [(1, 4, 2, 64), (9, 28, 4, 128), (6, 3, 1, 6)]
)
def test_rotary_positions_are_torch_s_bit_for_bit(
    num_rows: int, num_heads: int, num_kv_heads: int, size: int, dtype: torch.dtype, device: torch.device
) -> None:
    q, k = (drawn(num_rows, heads, size, dtype=dtype, device=device) for heads in (num_heads, num_kv_heads))
    angles = drawn(num_rows, 1, size // 2, dtype=torch.float32, device=device).repeat(1, 1, 2)
    table = (angles.cos(), angles.sin())
    rows = torch.tensor([0, num_rows - 1], device=device)[-num_rows:]
    for picked, asking in ((None, q), (rows, q[: len(rows)].contiguous())):
        found = rotate(asking, k, *table, rows=picked, impl="triton")
        assert all(map(torch.equal, found, rotate(asking, k, *table, rows=picked)))

    apart = torch.cat((q, k, k), dim=1)  # as one product of queries, keys and values gives them
    found = rotate(apart[:, :num_heads], apart[:, num_heads : num_heads + num_kv_heads], *table, impl="triton")
    assert all(map(torch.equal, found, rotate(q, k, *table)))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("shape", [(1, 8), (3, 704), (5, 18944), (0, 8)])
def test_gate(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
    gated, up = (drawn(*shape, dtype=dtype, device=device, seed=seed) for seed in (0, 1))
    is_as_close(gate(gated, up, impl="triton"), gate(gated, up), gate(gated.double(), up.double()))
    apart = torch.cat((gated, up), dim=1).chunk(2, dim=1)
    assert torch.equal(gate(*apart, impl="triton"), gate(gated, up, impl="triton"))


@pytest.mark.parametrize("dtype", HALVES)
def test_a_row_does_not_depend_on_the_others(dtype: torch.dtype, device: torch.device) -> None:
    x, delta = (drawn(37, 96, dtype=dtype, device=device, seed=seed) for seed in (0, 1))
    weight = drawn(96, dtype=dtype, device=device)
    whole = (*add_norm(x, delta, weight, EPS, impl="triton"), gate(x, delta, impl="triton"))
    for row in range(len(x)):
        own = slice(row, row + 1)
        alone = (*add_norm(x[own], delta[own], weight, EPS, impl="triton"), gate(x[own], delta[own], impl="triton"))
        assert all(torch.equal(a, w[own]) for a, w in zip(alone, whole, strict=True))
