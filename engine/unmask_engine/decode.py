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
    on_gpu = logits_c.is_cuda
    params = batch.row_params(rows, logits_c.shape[1])
    tokens, confidence = sample(logits_c, logits_u, params, impl="triton" if on_gpu else "torch")
    is_committed = reveal(confidence, batch.reveal_params(rows), impl="triton" if on_gpu else "reference")
    return batch.commit(rows, tokens, confidence, is_committed)
