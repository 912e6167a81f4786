"""From a request's state to the rows of a step: what the runner computes, what sampler and reveal go by."""

from collections.abc import Sequence

import torch
from torch import Tensor

from unmask_engine.runner import Row
from unmask_engine.state import DecodingState
from unmask_kernels import noise
from unmask_kernels.confidence import ALGORITHMS
from unmask_kernels.penalties import position_strength
from unmask_kernels.reveal import BY_RANK, RevealParams
from unmask_kernels.rows import ANY, RowParams
from unmask_kernels.schedule import commit_probability


def conditional_row(state: DecodingState, positions: Tensor) -> Row:
    """The request's own sequence, to predict canvas positions (R,)."""
    prompt = state.plan.prompt
    return Row(prompt, state.ids, predicted=positions + len(prompt))


def unconditional_row(state: DecodingState, positions: Tensor) -> Row:
    """The sequence without the caller's content, aligned with the conditional one on the canvas.

    With `reference_compat` it is the reference's: padded with zero embeddings to the conditional row's length and read
    at the conditional row's index, which is another canvas position (decoding.md, Where the reference is wrong).
    """
    prompt = state.plan.unconditional
    assert prompt is not None  # Plan: there is one where there is guidance
    if not state.plan.settings.reference_compat:
        return Row(prompt, state.ids, predicted=positions + len(prompt))
    length = len(state.plan.prompt)
    return Row(prompt, state.ids, predicted=positions + length, padding=length - len(prompt))


def row_params(state: DecodingState, positions: Tensor, vocabulary: int) -> RowParams:
    """Sampling parameters of the canvas positions (R,) in this step."""
    settings = state.plan.settings
    masked = state.masked
    num_masked = masked.sum().expand(len(positions))
    rank = (torch.cumsum(masked, dim=0) - 1)[positions]  # among all masked positions, not the block's alone
    position_penalty = _floats(settings.position_penalty, positions)
    # The first step has no answer to repeat, not even its pins (decoding.md, One step, 5).
    has_history = settings.algorithm == "entropy-penalty" and state.step > 0
    return RowParams(
        algorithm=torch.full_like(positions, ALGORITHMS.index(settings.algorithm)),
        temperature=_floats(settings.temperature, positions),
        top_p=_floats(settings.top_p, positions),
        top_k=torch.full_like(positions, settings.top_k),
        repetition_penalty=_floats(settings.repetition_penalty if has_history else 1.0, positions),
        position_strength=position_strength(rank, num_masked, position_penalty),
        guidance=_floats(settings.guidance, positions),
        seed=torch.full_like(positions, settings.seed),
        step=torch.full_like(positions, state.step),
        position=positions,
        allowed=_allowed(state, positions),
        never=torch.full_like(positions, ANY if settings.reference_compat else state.plan.mask),
        request=torch.zeros_like(positions),
        seen=_seen(state, vocabulary),
    )


def reveal_params(states: Sequence[DecodingState], rows: RowParams, counts: Tensor) -> RevealParams:
    """How the rows of the states, end to end, are committed; counts (G,)."""
    of_request = [state.plan.settings for state in states]
    chances = [
        commit_probability(state.block_step, state.plan.block_steps[state.block])
        if state.plan.settings.algorithm == "origin"
        else BY_RANK
        for state in states
    ]
    return RevealParams(
        request=rows.request,
        counts=counts,
        temperature=torch.tensor([settings.algorithm_temperature for settings in of_request])[rows.request],
        uniform=noise.uniform(rows.seed, noise.REVEAL_STREAM, rows.step, rows.position),
        probability=torch.tensor(chances)[rows.request],
    )


def _floats(value: float, like: Tensor) -> Tensor:
    return torch.full(like.shape, value, dtype=torch.float32)


def _allowed(state: DecodingState, positions: Tensor) -> Tensor:
    """(R, n, 2), filled up with empty ranges."""
    ranges = [state.plan.allowed[position] for position in positions.tolist()]
    most = max(map(len, ranges))
    return torch.tensor([(*row, *([(0, 0)] * (most - len(row)))) for row in ranges])


def _seen(state: DecodingState, vocabulary: int) -> Tensor:
    """(1, V) bool: the ids of the answer so far, pins included, id 0 excluded as in the reference."""
    seen = torch.zeros(1, vocabulary, dtype=torch.bool)
    seen[0, state.ids] = True
    seen[0, [0, state.plan.mask]] = False
    return seen
