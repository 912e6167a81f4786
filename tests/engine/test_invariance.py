"""What batch-independent tokens rest on: a row of a product does not depend on how many rows there are."""

import pytest
import torch

from unmask_engine.models.backbone import packed_attention
from unmask_engine.models.products import RowwiseLinear
from unmask_engine.runner import SLOW_ON_CUDA, TILE, filled


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("inputs", "outputs"), [(256, 256), (256, 704), (704, 256), (256, 3597), (64, 176)])
def test_rows_of_a_product_agree_for_every_multiple_of_the_tile(inputs: int, outputs: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias, rows = (
        torch.randn(*shape, generator=generator).to(dtype) for shape in ((outputs, inputs), (outputs,), (1024, inputs))
    )
    linear = RowwiseLinear(inputs, outputs, dtype=dtype).requires_grad_(False)
    linear.load_state_dict({"weight": weight, "bias": bias})
    whole = linear(rows)
    for count in (TILE, 2 * TILE, 5 * TILE, 7 * TILE, 1024 - TILE):
        for start in (0, 3, 1024 - count):
            assert torch.equal(linear(rows[start : start + count]), whole[start : start + count])


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_rows_are_filled_up_to_few_more(device: str) -> None:
    for rows in range(1, 700):
        total = filled(rows, torch.device(device))
        assert total % TILE == 0
        assert rows <= total < rows + (TILE if device == "cpu" else 4 * TILE)
        assert device == "cpu" or total not in SLOW_ON_CUDA


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_within_a_sequence_does_not_see_its_neighbours(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    lengths = [37, 100, 100, 8, 250]
    q, k, v = (torch.randn(sum(lengths), heads, 64, generator=generator).to(dtype) for heads in (4, 2, 2))
    packed = packed_attention(q, k, v, lengths, lengths)
    start = 0
    for length in lengths:
        own = slice(start, start + length)
        assert torch.equal(packed_attention(q[own], k[own], v[own], [length], [length]), packed[own])
        start += length
    pair = packed_attention(q[37:237], k[37:237], v[37:237], [100, 100], [100, 100])  # one batch of equal lengths
    assert torch.equal(pair, packed[37:237])
