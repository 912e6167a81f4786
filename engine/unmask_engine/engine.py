"""Any input to any output: prepare, decode among others, answer. Token ids and tensors; no HTTP, no asyncio."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmask_engine.answer import Answer, split
from unmask_engine.codecs.image_pixels import to_pixels
from unmask_engine.codecs.speech_windows import SpeechStream
from unmask_engine.deadline import shortened
from unmask_engine.joint import plan_joint
from unmask_engine.loaded import LoadedBundle
from unmask_engine.loop import Job, Loop
from unmask_engine.progress import progress
from unmask_engine.prompt import Prepared, prepare
from unmask_engine.request import (
    AudioPart,
    Generation,
    GenerationRequest,
    ImagePart,
    JointEdit,
    Progress,
    TextToken,
    Timings,
    Usage,
)
from unmask_engine.scheduler import Policy
from unmask_engine.state import DecodingState
from unmask_engine.word_times import with_words
from unmask_engine.work import Work

OnStep = Callable[[int, int, int], None]  # index of the request, steps done, steps planned


@dataclass(eq=False)
class Running:
    """A request that the engine decodes, from `submit` until `step` has returned it."""

    prepared: Prepared
    job: Job
    speech: SpeechStream | None  # where speech is asked for
    follow: Callable[[DecodingState], None] | None = None  # called after each of its steps
    spoken: list[Tensor] = field(default_factory=list)  # chunks so far
    started: float = field(default_factory=time.perf_counter)
    decode_ms: float = 0.0

    @property
    def state(self) -> DecodingState:
        return self.job.state

    @property
    def error(self) -> Exception | None:
        """Why it could not be decoded."""
        return self.job.error


class Engine:
    """Belongs to one thread, but for `answer`, which another may call."""

    def __init__(self, bundle: LoadedBundle, policy: Policy | None = None) -> None:
        self.bundle = bundle
        self._loop = Loop(bundle.model, policy or Policy())
        self._running: list[Running] = []
        self._media_s: dict[str, float] = {}  # a task's latest time from tokens to media

    @classmethod
    def load(
        cls,
        path_or_name: str | Path,
        device: torch.device | str = "cpu",
        policy: Policy | None = None,
        tensor_parallel: int = 1,
    ) -> "Engine":
        """Raises BundleError where the bundle cannot be used. So many processes share the backbone."""
        return cls(LoadedBundle.load(path_or_name, device, tensor_parallel), policy)

    @property
    def name(self) -> str:
        """The bundle's."""
        return self.bundle.name

    @property
    def work(self) -> Work:
        """What has been done since the load, and what is in hand."""
        in_flight = sum(running.state.plan.tokens for running in self._running)
        return Work(self._loop.num_steps, self._loop.num_tokens, in_flight)

    def prepare(self, request: GenerationRequest, waited_ms: float = 0.0) -> Prepared:
        """Check and encode a request; raises RequestError. After this its cost is known and it cannot be refused.

        `waited_ms` is what has passed of its deadline.
        """
        joint = plan_joint(self.bundle, request) if isinstance(request.edit, JointEdit) else None
        stages = (prepare(self.bundle, request),) if joint is None else joint.stages
        if request.decoding.deadline_ms is not None:
            stages = self._in_time(stages, (request.decoding.deadline_ms - waited_ms) / 1e3)
        return stages[0] if joint is None else replace(joint, stages=stages).begin()

    def submit(
        self,
        prepared: Prepared,
        on_progress: Callable[[Progress], None] | None = None,
        interactive: bool = False,
    ) -> Running:
        """The request takes part from the next step on; `on_progress` is called after each of its steps."""
        running = Running(prepared, Job(DecodingState(prepared.plan), interactive), self._speech(prepared))
        if on_progress is not None:
            running.follow = lambda state: on_progress(progress(self.bundle, running.prepared, state))
        self._begin(running)
        self._running.append(running)
        return running

    def cancel(self, running: Running) -> None:
        """The request takes part in no further step; its answer holds what is there."""
        self._loop.remove(running.job)
        self._running = [other for other in self._running if other is not running]

    def step(self) -> list[Running]:
        """Decode one step of some of the requests; those that are finished by it, or have failed."""
        self._loop.step()
        left = [r for r in self._running if (r.error is not None or r.state.is_done) and not self._goes_on(r)]
        for running in left:
            running.decode_ms = (time.perf_counter() - running.started) * 1e3
            self._running.remove(running)
        return left

    @torch.inference_mode()
    def speak(self, running: Running, codes: Sequence[int]) -> AudioPart:
        """The sound that becomes known by these first codes of a running request's speech; on any one thread."""
        assert self.bundle.speech_codec is not None  # prepare
        return AudioPart(self._spoken(running, codes, final=False), self.bundle.speech_codec.sample_rate)

    def probe(self) -> None:
        """Raises what the device raises when it is lost: an error of CUDA that stays fails the smallest kernel."""
        torch.zeros(1, device=self.bundle.device).add_(1).item()

    @torch.inference_mode()
    def draw(self, codes: Sequence[int]) -> ImagePart:
        """The picture of so many image codes, committed or guessed; on any thread."""
        codec = self.bundle.image_codec
        assert codec is not None  # prepare
        side = self.bundle.image_grid
        image = torch.tensor(codes, dtype=torch.int64, device=self.bundle.device).view(1, side, side)
        return ImagePart(to_pixels(codec.decode(image))[0])

    def answer(self, running: Running) -> Generation:
        """Text, samples and pixels of a request that `step` or `cancel` took out; on the thread of `speak`."""
        answer = self._stage_answer(running)
        return answer if running.prepared.whole is None else running.prepared.whole(answer)

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        on_step: OnStep | None = None,
        cancelled: Callable[[int], bool] | None = None,
    ) -> list[Generation]:
        """Answer requests; raises RequestError before the first step if any of them is refused.

        A request for which `cancelled(index)` turns true stops before its next step; its answer holds what is there.
        """
        prepared = [self.prepare(request) for request in requests]
        running: list[Running] = []
        for index, item in enumerate(prepared):
            running.append(self.submit(item))
            if on_step is not None:
                running[-1].follow = running[-1].job.on_step = _counted(on_step, index)
        while waiting := [r for r in running if r in self._running]:
            for r in waiting:
                if cancelled is not None and cancelled(running.index(r)):
                    self.cancel(r)
            self.step()
        for r in running:
            if r.error is not None:
                raise r.error
        return [self.answer(r) for r in running]

    def _in_time(self, stages: tuple[Prepared, ...], left_s: float) -> tuple[Prepared, ...]:
        """With as many steps as are over in so many seconds, each of the stages with its share of them."""
        for stage in stages:
            left_s -= stage.encode_ms / 1e3 + self._media_s.get(stage.preset.task, 0.0)
        step_s = [self._loop.expected_step_s(stage.plan) for stage in stages]
        costs = [stage.plan.steps * seconds for stage, seconds in zip(stages, step_s, strict=True)]
        total = sum(costs) or 1.0
        return tuple(
            replace(stage, plan=shortened(stage.plan, left_s * (cost / total), seconds))
            for stage, seconds, cost in zip(stages, step_s, costs, strict=True)
        )

    def _begin(self, running: Running) -> None:
        running.job.on_step = running.follow
        if not running.state.is_done:  # a canvas without a mask is
            self._loop.add(running.job)

    def _goes_on(self, running: Running) -> bool:
        """A target of a joint edit is made: the next one begins, if there is one."""
        then = running.prepared.then
        if then is None or running.error is not None:
            return False
        try:
            running.prepared = then(self._stage_answer(running))
        except Exception as error:
            running.job.error = error
            return False
        running.job = Job(DecodingState(running.prepared.plan), running.job.interactive)
        running.speech, running.spoken = self._speech(running.prepared), []
        self._begin(running)
        return True

    def _speech(self, prepared: Prepared) -> SpeechStream | None:
        codec = self.bundle.speech_codec if "audio" in prepared.outputs else None
        if codec is None:
            return None
        return SpeechStream(codec, prepared.plan.settings.seed, self.bundle.audio_token_rate)

    def _stage_answer(self, running: Running) -> Generation:
        started = time.perf_counter()
        answer = self._answer(running)
        if running.prepared.paste is not None:
            answer = running.prepared.paste(answer)
        if running.prepared.timing is not None:
            answer = with_words(self.bundle.word_clock, running.prepared.timing, answer)
        if running.prepared.paste is not None or running.prepared.timing is not None:
            media_ms = (time.perf_counter() - started) * 1e3
            answer = replace(answer, timings=replace(answer.timings, media_ms=media_ms))
        self._media_s[answer.task] = answer.timings.media_ms / 1e3
        return answer

    def _answer(self, running: Running) -> Generation:
        started = time.perf_counter()
        bundle, prepared, state = self.bundle, running.prepared, running.state
        plan, outputs = prepared.plan, prepared.outputs
        ids = tuple(state.ids.tolist())
        if state.is_done and not plan.settings.reference_compat:  # after an early end nothing is left to say
            ids = tuple(bundle.vocabulary.pad if token == plan.mask else token for token in ids)
        answer = split(ids, bundle.vocabulary, prepared.preset.outputs, bundle.image_grid**2, plan.end_from)
        text = bundle.tokenizer.decode(answer.text).rstrip("\n") if "text" in outputs else None
        audio = self._whole_speech(running, answer) if "audio" in outputs else None
        image = self.draw(answer.image) if "image" in outputs and state.is_done else None
        return Generation(
            task=prepared.preset.task,
            token_ids=ids,
            confidence=tuple(None if math.isnan(score) else score for score in state.confidence.tolist()),
            text=text,
            audio=audio,
            image=image,
            truncated=answer.truncated,
            text_tokens=tuple(self._text_tokens(answer, state)) if "text" in outputs else (),
            cancelled=not state.is_done,
            usage=Usage(
                input_tokens=dict(prepared.input_tokens),
                output_tokens={"text": len(answer.text), "audio": len(answer.audio), "image": len(answer.image)},
                steps=state.step,
                forward_passes=state.step * (2 if plan.settings.guidance > 0 else 1),
            ),
            timings=Timings(prepared.encode_ms, running.decode_ms, (time.perf_counter() - started) * 1e3),
        )

    def _text_tokens(self, answer: Answer, state: DecodingState) -> Iterator[TextToken]:
        for token, score in zip(answer.text, state.confidence[list(answer.text_at)].tolist(), strict=True):
            yield TextToken(self.bundle.tokenizer.decode([token]), None if math.isnan(score) else score)

    @torch.inference_mode()
    def _whole_speech(self, running: Running, answer: Answer) -> AudioPart:
        codec = self.bundle.speech_codec
        assert codec is not None  # prepare
        self._spoken(running, answer.audio, final=True)
        return AudioPart(torch.cat(running.spoken).numpy(), codec.sample_rate)

    def _spoken(self, running: Running, codes: Sequence[int], *, final: bool) -> NDArray[np.float32]:
        assert running.speech is not None  # submit: audio is asked for
        ids = torch.tensor(codes, dtype=torch.int64, device=self.bundle.device)
        samples = running.speech.feed(ids, final=final)
        running.spoken.append(samples)
        return samples.numpy()


def _counted(on_step: OnStep, index: int) -> Callable[[DecodingState], None]:
    return lambda state: on_step(index, state.step, state.plan.steps)
