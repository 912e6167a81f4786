"""Products whose rows do not depend on how many there are: what tokens that never depend on the company rest on."""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# A row of a bfloat16 product with more inputs than this depends on the number of rows on CPUs with AMX: oneDNN adds the
# inputs up in other blocks for 48 to 240 rows than for 16, 32 or 256 and more (tests/engine/test_invariance.py).
_ONE_BLOCK = 512
_FEW_ROWS = 32


class RowwiseLinear(nn.Linear):
    """On CPUs each row is the same however many there are, where that is a multiple of 16."""

    def forward(self, x: Tensor) -> Tensor:
        """(T, inputs) -> (T, outputs)."""
        is_plain = type(x) is Tensor and x.device.type == "cpu" and not x.requires_grad
        if not is_plain or x.dtype != torch.bfloat16 or self.in_features <= _ONE_BLOCK:
            return super().forward(x)
        return torch.cat([F.linear(part, self.weight, self.bias) for part in torch.split(x, _FEW_ROWS)])


@cache
def keep_the_order_of_sums() -> None:
    """For CUDA devices, once in a process: no product of half precision splits its inputs among blocks of the device.

    cuBLAS does so for some numbers of rows, and a row is then rounded otherwise than for others; kernels that do not
    split add up in one order, whatever their tiles (tests/engine/test_products_on_gpu.py). Only cuBLASLt can be told.
    """
    torch.backends.cuda.preferred_blas_library("cublaslt")
    matmul = torch.backends.cuda.matmul
    matmul.allow_bf16_reduced_precision_reduction = (False, False)
    matmul.allow_fp16_reduced_precision_reduction = (False, False)


def join(*linears: nn.Linear) -> None:
    """Lay out the weights of products of the same rows as parts of one tensor, for `one_product`.

    For inference: they are copied, on the device where they are, and want no gradients any more.
    """
    for name in ("weight", "bias"):
        parts = [getattr(linear, name) for linear in linears]
        if any(part is None for part in parts):
            continue
        whole = torch.cat([part.detach() for part in parts])
        for linear, part in zip(linears, torch.split(whole, [len(part) for part in parts]), strict=True):
            setattr(linear, name, nn.Parameter(part, requires_grad=False))


def one_product(x: Tensor, *linears: nn.Linear) -> Sequence[Tensor] | None:
    """(T, inputs) -> (T, outputs) of each, whose rows stand apart; None where it is not one product.

    It is one for inference on a CUDA device, where the weights have been joined. cuBLASLt is slow at few outputs: 87 us
    for 512 of 128 rows where 4,608 take 12 (H200).
    """
    if type(x) is not Tensor or not x.is_cuda or torch.is_grad_enabled():
        return None
    if any(type(linear) is not nn.Linear for linear in linears):  # one that does more, such as LoRA's
        return None
    weights = [linear.weight for linear in linears]
    weight, bias = _as_one(weights), _as_one([linear.bias for linear in linears])
    if weight is None or (bias is None) != (linears[0].bias is None):
        return None
    return torch.split(F.linear(x, weight, bias), [len(part) for part in weights], dim=1)


def _as_one(parts: Sequence[Tensor | None]) -> Tensor | None:
    """The tensor whose rows the parts are, if they lie so in memory."""
    tensors = [part for part in parts if part is not None and type(part.data) is Tensor]
    if len(tensors) < len(parts):
        return None
    first = tensors[0]
    is_one = all(
        before.untyped_storage().data_ptr() == after.untyped_storage().data_ptr()
        and before.data_ptr() + before.nbytes == after.data_ptr()
        for before, after in pairwise(tensors)
    )
    if not is_one:
        return None
    return first.as_strided((sum(map(len, tensors)), *first.shape[1:]), first.stride())
