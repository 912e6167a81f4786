"""What batch-independent tokens rest on, on a CUDA device: a row of a product does not depend on how many there are."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unmask_engine.models.backbone import Backbone, BackboneConfig, Wanted
from unmask_engine.models.products import join, keep_the_order_of_sums, one_product
from unmask_engine.runner import TILE

pytestmark = pytest.mark.gpu
SHAPES = [(64, 176), (256, 704), (704, 256), (896, 128), (3584, 512), (3584, 3584), (18944, 3584), (3584, 18944)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_rows_of_a_product_agree_for_every_multiple_of_the_tile(
    inputs: int, outputs: int, has_bias: bool, dtype: torch.dtype
) -> None:
    keep_the_order_of_sums()
    g = torch.Generator("cuda").manual_seed(0)
    weight, bias, rows = (
        torch.randn(*shape, generator=g, device="cuda").to(dtype)
        for shape in ((outputs, inputs), (outputs,), (2048, inputs))
    )
    given = bias if has_bias else None
    whole = F.linear(rows, weight, given)
    counts = [*range(TILE, 1024, TILE), 1408, 2048 - TILE]
    differing = [n for n in counts if not torch.equal(F.linear(rows[:n], weight, given), whole[:n])]
    assert not differing
    assert torch.equal(F.linear(rows[37 : 37 + 320], weight, given), whole[37 : 37 + 320])


@torch.inference_mode()
@pytest.mark.parametrize("has_bias", [False, True])
def test_one_product_of_joined_weights_is_theirs_bit_for_bit(has_bias: bool) -> None:
    keep_the_order_of_sums()
    torch.manual_seed(0)
    linears = [nn.Linear(256, outputs, has_bias, "cuda", torch.bfloat16) for outputs in (704, 128, 128)]
    x = torch.randn(48, 256, device="cuda").bfloat16()
    expected = [linear(x) for linear in linears]
    names = [name for linear in linears for name, _ in linear.named_parameters()]
    assert one_product(x, *linears) is None
    join(*linears)
    assert [name for linear in linears for name, _ in linear.named_parameters()] == names
    assert all(torch.equal(linear(x), wanted) for linear, wanted in zip(linears, expected, strict=True))
    for some in (slice(None), slice(1, None)):
        together = one_product(x, *linears[some])
        assert together is not None
        assert all(map(torch.equal, together, expected[some]))
    assert one_product(x, linears[0], linears[2]) is None


@torch.inference_mode()
@pytest.mark.parametrize("are_joined", [False, True])
def test_rows_of_the_body_agree_alone_and_in_company(are_joined: bool) -> None:
    torch.manual_seed(0)
    with torch.device("cuda"):
        body = Backbone(BackboneConfig(8, 1792, 4736, 3, 14, 2)).bfloat16()
        embeds = torch.randn(1600, 1792).bfloat16()
        rows = torch.arange(0, 96, 2)
    if are_joined:
        body.join_products()
    for lengths in ([112], [112, 16], [112, 48], [112, 208], [112, 640, 80], [112, 1408, 80]):
        found = body(embeds[: sum(lengths)], lengths, Wanted(rows, (len(rows), *[0] * (len(lengths) - 1))))
        alone = body(embeds[:112], [112], Wanted(rows, (len(rows),)))
        assert torch.equal(found, alone), lengths
