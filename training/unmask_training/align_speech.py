"""Before the backbone trains: speech and text are put into one space.

The CTC head of the trained ears says which text token each row of the speech encoder stands for. The projector is
fitted to give such a row the embedding of that token and a vector of its number, which the ears count too, and every
row without a token one common vector. So the backbone starts out reading speech as spaced-out, numbered text, and what
it learns about written captions holds for spoken ones.
"""

import random

import numpy as np
import torch
from numpy.typing import NDArray

from unmask_engine.models.omni import OmniModel
from unmask_training.devices import device_of
from unmask_training.train_ears import BLANK, MAX_WORDS, best_path, first_rows

_BLANK_WEIGHT = 0.3  # most rows are blank
_NUMBER_SCALE = 0.5  # of a number's vector beside a token's embedding


def fit(model: OmniModel, rows: list[NDArray[np.float16]], steps: int = 400, batch: int = 32, seed: int = 0) -> float:
    """Fit `model`'s projector to the encoder rows (T, size) of the recordings; returns the final relative error."""
    rng = random.Random(seed)
    projector, embeddings = model.model.audio_projection, model.model.embed_tokens.weight.detach()
    scale = float(embeddings.std())
    generator, device = torch.Generator().manual_seed(seed), device_of(model)
    silence, *numbers = (torch.randn(1 + MAX_WORDS, embeddings.shape[1], generator=generator) * scale).to(device)
    numbered = _NUMBER_SCALE * torch.stack(numbers)
    optimizer = torch.optim.AdamW(projector.parameters(), lr=2e-3)
    loss = torch.zeros(())
    for _ in range(steps):
        chosen = [torch.from_numpy(r).to(device).float() for r in rng.choices(rows, k=batch)]
        paths = [best_path(model.speech_encoder, x) for x in chosen]
        number = torch.cat([first_rows(path).cumsum(0).clamp(max=MAX_WORDS - 1) for path in paths])
        x, heard = torch.cat(chosen), torch.cat(paths)
        spoken = (heard != BLANK)[:, None]
        wanted = torch.where(spoken, embeddings[(heard - 1).clamp(min=0)] + numbered[number], silence)
        error = ((projector(x) - wanted) / scale).square().mean(-1)
        loss = (error * torch.where(spoken[:, 0], 1.0, _BLANK_WEIGHT)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())
