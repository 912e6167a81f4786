"""One step: schedule, run, sample, reveal, emit. Requests of any task, length and parameters share it."""

import torch

from unmask_engine.batch import Batch, Commit
from unmask_kernels.reveal import reveal
from unmask_kernels.sample import Implementation, sample


@torch.inference_mode()
def decode_step(batch: Batch, impl: Implementation | None = None) -> Commit:
    """One forward pass and one commit for each of the batch's states; all of them can begin a step.

    `impl` says which kernels choose and commit; all of them choose the same. None takes the fast ones of the device.
    """
    rows = batch.schedule()
    logits_c, logits_u = batch.run(rows)
    impl = impl or ("triton" if logits_c.is_cuda else "torch")
    params = batch.row_params(rows, logits_c.shape[1])
    tokens, confidence = sample(logits_c, logits_u, params, impl=impl)
    is_committed = reveal(confidence, batch.reveal_params(rows), impl="triton" if impl == "triton" else "reference")
    return batch.commit(rows, tokens, confidence, is_committed)
