"""Fits the two halves of speech out to each other: mu, which is smoother than any true mel, and the vocoder.

The tokens stay what they are. Codes -> mu -> vocoder is trained as one network on the speaking voice, so that the
vocoder learns what smooth mels mean and mu learns to say what the vocoder needs. The estimator of the flow, a third of
the speech decoder, can then be left out of the bundle (docs/log.md).
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from unmask_engine.codecs.speech_flow import SpeechFlow
from unmask_engine.codecs.vocoder import Vocoder
from unmask_training.corpus import Corpus, word_recordings
from unmask_training.devices import CPU, device_of, mixed
from unmask_training.loop import Schedule, Training
from unmask_training.pitch import track_f0
from unmask_training.train_speech_codec import SAMPLES_PER_TOKEN, Codec, speaking_mel
from unmask_training.train_vocoder import FRAMES, HOP, spectral_loss

_WINDOWS = (30, 55)  # tokens that serving decodes at a time: an utterance's first window, and those with context
_WORDS = 8  # of an utterance put together from the lexicon


class SpeechOut(nn.Module):
    """Codes to samples, trainable."""

    def __init__(self, flow: SpeechFlow, vocoder: Vocoder) -> None:
        super().__init__()
        self.flow, self.vocoder = flow, vocoder


@torch.no_grad()
def tokenise(codec: Codec, recordings: Sequence[NDArray[np.float32]]) -> list[Tensor]:
    """The codes of each recording at 16 kHz."""
    device = device_of(codec)
    return [codec.tokenizer.encode(torch.from_numpy(r).to(device)).cpu() for r in recordings]


def said_by_lexicon(
    lexicon: Mapping[str, list[int]], recordings: Mapping[str, NDArray[np.float32]], count: int, seed: int
) -> tuple[list[Tensor], list[NDArray[np.float32]]]:
    """(codes, samples) of utterances of random words: the codes that the backbone learns to write, one word's codes
    never having seen the next word's sound."""
    rng = random.Random(seed)
    texts = [rng.choices(sorted(recordings), k=_WORDS) for _ in range(count)]
    codes = [torch.tensor([c for word in text for c in lexicon[word]]) for text in texts]
    return codes, [np.concatenate([recordings[word] for word in text]) for text in texts]


def speech_out_loss(
    model: SpeechOut, ids: Tensor, whole: Tensor, pitches: Tensor, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Of windows of tokens (B, L) with their samples (B, T) and pitch (B, frames), all on the model's device."""
    with mixed(ids.device):
        mu = model.flow.encode_tokens(ids)
    true_mel = speaking_mel(whole)[..., : mu.shape[-1]]
    start = int(torch.randint(max(1, mu.shape[-1] - FRAMES), (1,), generator=generator))
    mel = mu.float()[..., start : start + FRAMES]
    stop = start + mel.shape[-1]
    true, f0 = whole[:, start * HOP : stop * HOP], pitches[:, start:stop]
    with mixed(ids.device):
        guess = model.vocoder.predict_f0(mel)
    made = model.vocoder.vocode(mel, model.vocoder.source(f0, generator))[:, : true.shape[-1]]
    pitch = (guess.float() - f0).abs().mean() / 100
    mels = F.l1_loss(speaking_mel(made), speaking_mel(true))
    smooth = F.l1_loss(mu.float(), true_mel)
    loss = spectral_loss(made, true) + 2 * mels + pitch + 0.3 * smooth
    return loss, {"mel_l1": float(mels.detach()), "mu_l1": float(smooth.detach()), "pitch": float(pitch.detach())}


def train(
    out: Path, minutes: float, codec: Codec, vocoder: Vocoder, corpus: Corpus, wide: Corpus,
    lexicon: Mapping[str, list[int]], seed: int = 0, batch: int = 10, device: torch.device = CPU,
) -> SpeechOut:  # fmt: skip
    """`corpus` holds the voice at 22.05 kHz, `wide` the same recordings at 16 kHz, `lexicon` the codes of
    `word_recordings`, of which half of the material is made. Resumes from `out`."""
    torch.manual_seed(seed)
    codec.to(device)
    model = SpeechOut(codec.flow, vocoder).to(device)
    for name, parameter in model.flow.named_parameters():
        parameter.requires_grad_(not name.startswith(("decoder.", "spk_embed_affine_layer.", "input_embedding.")))
    training = Training(model, Schedule(minutes, 6e-4, betas=(0.8, 0.99), weight_decay=0.0, ema_decay=0.995), out)
    generator = torch.Generator().manual_seed(training.fresh_seed(seed))
    codes, waves = said_by_lexicon(lexicon, word_recordings(corpus.sample_rate), len(corpus) // 2, seed)
    chosen_ones = range(0, len(corpus), 2)
    codes += tokenise(codec, [wide.recording(i) for i in chosen_ones])
    waves += [corpus.recording(i) for i in chosen_ones]
    f0s = [track_f0(r) for r in waves]
    long_enough = [[i for i, c in enumerate(codes) if len(c) >= count] for count in _WINDOWS]

    def windows() -> tuple[Tensor, list[NDArray[np.float32]], list[NDArray[np.float32]]]:
        """Equally long windows of tokens (B, L), and the samples and pitch that belong to them."""
        kind = int(torch.randint(len(_WINDOWS), (1,), generator=generator))
        length, able = _WINDOWS[kind], long_enough[kind]
        chosen = [able[i] for i in torch.randint(len(able), (batch,), generator=generator).tolist()]
        ids, samples, pitches = [], [], []
        for i in chosen:
            start = int(torch.randint(len(codes[i]) - length + 1, (1,), generator=generator))
            first = start * SAMPLES_PER_TOKEN[corpus.sample_rate]
            count = model.flow.num_frames(length)
            ids.append(codes[i][start : start + length])
            samples.append(_padded(waves[i][first:], count * HOP))
            pitches.append(_padded(f0s[i][round(first / HOP) :], count))
        return torch.stack(ids), samples, pitches

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        ids, *given = windows()
        samples, pitches = (torch.from_numpy(np.stack(x)).to(device) for x in given)
        return speech_out_loss(model, ids.to(device), samples, pitches, generator)

    training.run(loss_of)
    training.use_ema()
    return model.eval()


def _padded(values: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    return np.pad(values[:count], (0, max(0, count - len(values)))).astype(np.float32)
