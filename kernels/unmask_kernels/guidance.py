"""Classifier-free guidance: logits_u + (1 + cfg)(logits_c - logits_u). Source: decoding.md, One step, 1."""

from torch import Tensor


def guide(logits_c: Tensor, logits_u: Tensor, cfg: Tensor) -> Tensor:
    """Combine rows that predict the same canvas position: (R, V), (R, V), cfg (R,) -> (R, V) float32.

    cfg 0 is the conditional row; cfg 2 is a guidance scale of 3 in the usual notation.
    """
    if logits_c.shape != logits_u.shape or cfg.shape != logits_c.shape[:1]:
        raise ValueError(f"rows disagree: {tuple(logits_c.shape)}, {tuple(logits_u.shape)}, cfg {tuple(cfg.shape)}")
    unconditional = logits_u.float()
    return unconditional + (cfg.float().unsqueeze(1) + 1) * (logits_c.float() - unconditional)
