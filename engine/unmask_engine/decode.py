"""The step loop: schedule, run, sample, reveal, emit. Requests of any task, length and parameters share a step."""

from collections.abc import Callable, Sequence

import torch

from unmask_engine.rows import conditional_row, reveal_params, row_params, unconditional_row
from unmask_engine.runner import Runner
from unmask_engine.state import DecodingState
from unmask_kernels.reveal import reveal
from unmask_kernels.rows import RowParams
from unmask_kernels.sample import sample

OnStep = Callable[[int, DecodingState], None]  # index of the request, its state after the step


def decode(
    states: Sequence[DecodingState],
    runner: Runner,
    on_step: OnStep | None = None,
    cancelled: Callable[[int], bool] | None = None,
) -> None:
    """Decode a batch to the end. A request for which `cancelled(index)` is true stops before its next step."""
    active = list(range(len(states)))
    while active := [i for i in active if not states[i].is_done and not (cancelled is not None and cancelled(i))]:
        decode_step([states[i] for i in active], runner)
        if on_step is not None:
            for i in active:
                on_step(i, states[i])


@torch.inference_mode()
def decode_step(states: Sequence[DecodingState], runner: Runner) -> None:
    """One forward pass and one commit for each of the states; none of them may be done."""
    # schedule: which positions are open in this step, and how many of them it commits
    open_positions = [state.open_positions for state in states]
    counts = torch.tensor([state.commit_count for state in states])
    sizes = [len(positions) for positions in open_positions]

    # run: the conditional rows of all, the unconditional ones of those with guidance
    rows = [conditional_row(state, positions) for state, positions in zip(states, open_positions, strict=True)]
    guided = [i for i, state in enumerate(states) if state.plan.settings.guidance > 0]
    logits = runner.run(rows + [unconditional_row(states[i], open_positions[i]) for i in guided])
    logits_c = torch.cat(logits[: len(states)])
    logits_u = torch.cat(logits[len(states) :]) if guided else None

    # sample
    vocabulary = logits_c.shape[1]
    params = RowParams.cat(
        [row_params(s, positions, vocabulary) for s, positions in zip(states, open_positions, strict=True)]
    )
    tokens, confidence = sample(logits_c, logits_u, params.to(logits_c.device))

    # reveal
    confidence = confidence.cpu()
    is_committed = reveal(confidence, reveal_params(states, params, counts))

    # emit
    by_request = (torch.split(rows, sizes) for rows in (tokens.cpu(), confidence, is_committed))
    for state, positions, token, score, chosen in zip(states, open_positions, *by_request, strict=True):
        state.commit(positions[chosen], token[chosen], score[chosen])
