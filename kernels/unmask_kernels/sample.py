"""The sampler: logits of masked rows -> (token, confidence) per row. Source: decoding.md, One step, 1 to 7."""

from collections.abc import Callable, Mapping
from typing import Final, Literal

from torch import Tensor

from unmask_kernels.reference_sample import sample_reference
from unmask_kernels.rows import RowParams
from unmask_kernels.torch_sample import sample_torch

Implementation = Literal["reference", "torch", "triton"]
_Sampler = Callable[[Tensor, Tensor | None, RowParams], tuple[Tensor, Tensor]]


def _sample_triton(logits_c: Tensor, logits_u: Tensor | None, params: RowParams) -> tuple[Tensor, Tensor]:
    from unmask_kernels.triton_sample import sample_triton

    return sample_triton(logits_c, logits_u, params)


_IMPLEMENTATIONS: Final[Mapping[Implementation, _Sampler]] = {
    "reference": sample_reference,
    "torch": sample_torch,
    "triton": _sample_triton,
}


def sample(
    logits_c: Tensor, logits_u: Tensor | None, params: RowParams, *, impl: Implementation = "torch"
) -> tuple[Tensor, Tensor]:
    """Choose a token for every row: logits_c (R, V) -> tokens (R,) int64, confidence (R,) float32.

    `logits_u` (R_u, V) holds the unconditional logits of the rows whose guidance is above 0, in their order; None where
    there are none. The arithmetic is float32 whatever the dtype of the logits. A row's result depends on that row
    alone, bit for bit; equal logits go to the lowest id. Every row must be allowed an id besides its `never`.

    What must be read to be checked is checked for tensors on the host only: on a device the check would wait for it.
    """
    num_rows, vocabulary = logits_c.shape
    if len(params) != num_rows:
        raise ValueError(f"{num_rows} rows of logits, but parameters of {len(params)}")
    if params.seen.shape[1] != vocabulary:
        raise ValueError(f"logits over {vocabulary} ids, but `seen` over {params.seen.shape[1]}")
    if logits_c.device.type == "cpu":
        _check_values(logits_u, params)
    return _IMPLEMENTATIONS[impl](logits_c, logits_u, params)


def _check_values(logits_u: Tensor | None, params: RowParams) -> None:
    num_guided = int((params.guidance > 0).sum())
    if (0 if logits_u is None else logits_u.shape[0]) != num_guided:
        raise ValueError(f"{num_guided} rows ask for guidance; logits_u must hold exactly their unconditional logits")
    if len(params) and int((params.allowed[..., 1] - params.allowed[..., 0]).sum(dim=1).min()) < 1:
        raise ValueError("a row is allowed no id at all")
