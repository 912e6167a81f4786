"""Speech tokens -> waveform: the flow and the vocoder together, whole or in chunks.

Upstream streams by rerunning the flow over the growing prefix, which loses frames and scales overlaps
(speech-decoder.md section 1.7). Where all tokens are known nothing of that is needed: the flow runs once, the harmonic
source is built once, and only the vocoder's convolutions run in windows with context.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unmask_engine.codecs.speech_flow import SpeechFlow
from unmask_engine.codecs.vocoder import Vocoder


@dataclass(frozen=True)
class Utterance:
    """What the vocoder needs of one utterance: mel (1, M, T) and source (1, samples_per_frame T)."""

    mel: Tensor
    source: Tensor

    @property
    def num_frames(self) -> int:
        return self.mel.shape[-1]


class SpeechDecoder(nn.Module):
    """Ids of one utterance -> samples at `sample_rate`; the same ids and seed give the same samples."""

    def __init__(self, flow: SpeechFlow, vocoder: Vocoder, sample_rate: int = 22050) -> None:
        super().__init__()
        if flow.config.hop_length != vocoder.config.samples_per_frame:
            raise ValueError(
                f"the flow makes a frame of {flow.config.hop_length} samples, "
                f"the vocoder one of {vocoder.config.samples_per_frame}"
            )
        self.flow = flow
        self.vocoder = vocoder
        self.sample_rate = sample_rate

    def decode(self, ids: Tensor, seed: int, num_steps: int | None = None) -> Tensor:
        """Token ids (L,) -> float32 samples (hop_length * frames,), on the module's device.

        `num_steps` of the flow: the config's by default.
        """
        if not len(ids):
            return torch.zeros(0, device=ids.device)
        utterance = self.prepare(ids, seed, num_steps)
        return self.render(utterance, 0, utterance.num_frames)

    def stream(self, ids: Tensor, seed: int, chunk_frames: int = 50, num_steps: int | None = None) -> Iterator[Tensor]:
        """The samples of `decode` in chunks of `chunk_frames` mel frames (86 a second), the last one shorter."""
        if not len(ids):
            return
        utterance = self.prepare(ids, seed, num_steps)
        for start in range(0, utterance.num_frames, chunk_frames):
            yield self.render(utterance, start, min(start + chunk_frames, utterance.num_frames))

    @torch.no_grad()
    def prepare(self, ids: Tensor, seed: int, num_steps: int | None = None) -> Utterance:
        """The part that needs all tokens: the flow, f0 and the source.

        All noise is drawn on the CPU, so that the seed means the same on every device.
        """
        generator = torch.Generator().manual_seed(seed)
        mel = self.flow.generate_mel(ids, generator, num_steps)
        return Utterance(mel, self.vocoder.source(self.vocoder.predict_f0(mel), generator))

    @torch.no_grad()
    def render(self, utterance: Utterance, start: int, stop: int) -> Tensor:
        """Samples of the frames [start, stop), computed in a window wide enough to be those of the whole run."""
        hop, context = self.vocoder.config.samples_per_frame, self.vocoder.config.context_frames
        first, last = max(0, start - context), min(utterance.num_frames, stop + context)
        window = self.vocoder.vocode(utterance.mel[..., first:last], utterance.source[:, first * hop : last * hop])
        return window[0, (start - first) * hop : (stop - first) * hop]
