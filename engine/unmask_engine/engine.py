"""Any input to any output, a batch at a time: prepare, decode, answer. Token ids and tensors; no HTTP, no asyncio."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from unmask_engine.answer import Answer, split
from unmask_engine.codecs.image_pixels import to_pixels
from unmask_engine.decode import decode
from unmask_engine.loaded import LoadedBundle
from unmask_engine.prompt import Prepared, prepare
from unmask_engine.request import AudioPart, Generation, GenerationRequest, ImagePart, Timings, Usage
from unmask_engine.runner import Runner
from unmask_engine.state import DecodingState

OnStep = Callable[[int, int, int], None]  # index of the request, steps done, steps planned


class Engine:
    def __init__(self, bundle: LoadedBundle) -> None:
        self.bundle = bundle
        self._runner = Runner(bundle.model)

    @classmethod
    def load(cls, path_or_name: str | Path, device: torch.device | str = "cpu") -> "Engine":
        """Raises BundleError where the bundle cannot be used."""
        return cls(LoadedBundle.load(path_or_name, device))

    def prepare(self, request: GenerationRequest) -> Prepared:
        """Check and encode a request; raises RequestError. After this its cost is known and it cannot be refused."""
        return prepare(self.bundle, request)

    @property
    def name(self) -> str:
        """The bundle's."""
        return self.bundle.name

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        on_step: OnStep | None = None,
        cancelled: Callable[[int], bool] | None = None,
    ) -> list[Generation]:
        """Answer the requests as one batch; raises RequestError before the first step if any of them is refused.

        A request for which `cancelled(index)` turns true stops before its next step; its answer holds what is there.
        """
        return self.generate_prepared([self.prepare(request) for request in requests], on_step, cancelled)

    def generate_prepared(
        self,
        prepared: Sequence[Prepared],
        on_step: OnStep | None = None,
        cancelled: Callable[[int], bool] | None = None,
    ) -> list[Generation]:
        """`generate` for requests that `prepare` has passed already."""
        states = [DecodingState(item.plan) for item in prepared]
        started = time.perf_counter()
        finished_ms = [0.0] * len(states)

        def note(index: int, state: DecodingState) -> None:
            finished_ms[index] = (time.perf_counter() - started) * 1e3
            if on_step is not None:
                on_step(index, state.step, state.plan.steps)

        decode(states, self._runner, note, cancelled)
        return [
            self._answer(item, state, decode_ms)
            for item, state, decode_ms in zip(prepared, states, finished_ms, strict=True)
        ]

    def _answer(self, prepared: Prepared, state: DecodingState, decode_ms: float) -> Generation:
        started = time.perf_counter()
        bundle, plan, outputs = self.bundle, prepared.plan, prepared.outputs
        ids = tuple(state.ids.tolist())
        if state.is_done and not plan.settings.reference_compat:  # after an early end nothing is left to say
            ids = tuple(bundle.vocabulary.pad if token == plan.mask else token for token in ids)
        answer = split(ids, bundle.vocabulary, prepared.preset.outputs, bundle.image_grid**2, plan.end_from)
        text = bundle.tokenizer.decode(answer.text).rstrip("\n") if "text" in outputs else None
        audio = self._speak(answer, plan.settings.seed) if "audio" in outputs else None
        image = self._draw(answer) if "image" in outputs and state.is_done else None
        return Generation(
            task=prepared.preset.task,
            token_ids=ids,
            confidence=tuple(None if math.isnan(score) else score for score in state.confidence.tolist()),
            text=text,
            audio=audio,
            image=image,
            truncated=answer.truncated,
            cancelled=not state.is_done,
            usage=Usage(
                input_tokens=dict(prepared.input_tokens),
                output_tokens={"text": len(answer.text), "audio": len(answer.audio), "image": len(answer.image)},
                steps=state.step,
                forward_passes=state.step * (2 if plan.settings.guidance > 0 else 1),
            ),
            timings=Timings(prepared.encode_ms, decode_ms, (time.perf_counter() - started) * 1e3),
        )

    @torch.inference_mode()
    def _speak(self, answer: Answer, seed: int) -> AudioPart:
        codec = self.bundle.speech_codec
        assert codec is not None  # prepare
        samples = codec.decode(torch.tensor(answer.audio, dtype=torch.int64, device=self.bundle.device), seed)
        return AudioPart(samples.float().cpu().numpy(), codec.sample_rate)

    @torch.inference_mode()
    def _draw(self, answer: Answer) -> ImagePart:
        codec = self.bundle.image_codec
        assert codec is not None  # prepare
        side = self.bundle.image_grid
        codes = torch.tensor(answer.image, dtype=torch.int64, device=self.bundle.device).view(1, side, side)
        return ImagePart(to_pixels(codec.decode(codes))[0])
