"""One step: schedule, run, sample, reveal, emit. Requests of any task, length and parameters share it."""

import torch

from unmask_engine.batch import Batch, Commit
from unmask_kernels.reveal import reveal
from unmask_kernels.sample import sample


@torch.inference_mode()
def decode_step(batch: Batch) -> Commit:
    """One forward pass and one commit for each of the batch's states; all of them can begin a step."""
    rows = batch.schedule()
    logits_c, logits_u = batch.run(rows)
    tokens, confidence = sample(logits_c, logits_u, batch.row_params(rows, logits_c.shape[1]))
    is_committed = reveal(confidence, batch.reveal_params(rows))
    return batch.commit(rows, tokens, confidence, is_committed)
