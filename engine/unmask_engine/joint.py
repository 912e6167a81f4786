"""Several targets in one edit: a picture, words and speech that belong together, each with something to be made.

They share a canvas and are made one after the other: the picture, the words, the speech, so that each is told what has
become of those before it. Each has the prompt of its own task. A single sequence that holds all of them is one that no
task has taught the model: it contradicts itself there (docs/log.md).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from unmask_engine.edit import check_decoding
from unmask_engine.edit_words import timed_spans
from unmask_engine.joint_answer import joined
from unmask_engine.joint_parts import Known, is_open, kind_of, known_parts, parts_for, stand_in
from unmask_engine.loaded import LoadedBundle
from unmask_engine.prompt import Place, Prepared, prepare
from unmask_engine.request import (
    Edit,
    Generation,
    GenerationRequest,
    JointEdit,
    Modality,
    Part,
    RequestError,
    TextPart,
    Whole,
    WordSpan,
)

ORDER: Final[tuple[Modality, ...]] = ("image", "text", "audio")


@dataclass(frozen=True)
class Joint:
    """A joint edit whose targets can all be made. `stages` hold what is known of each before the first begins."""

    bundle: LoadedBundle
    request: GenerationRequest
    known: Known
    stages: tuple[Prepared, ...]

    def begin(self) -> Prepared:
        """The first target; the others follow from it by `Prepared.then`."""
        return self._stage(self.known, ())

    def _stage(self, known: Known, done: tuple[Generation, ...]) -> Prepared:
        before, expected, later = (
            self.stages[: len(done)], self.stages[len(done)], self.stages[len(done) + 1 :]
        )  # fmt: skip
        prepared = expected
        if done:  # what was made may stand in the prompt; the canvas is as long as before
            prepared = _prepared(self.bundle, self.request, expected.outputs[0], known, len(expected.plan.canvas))
        return replace(
            prepared,
            plan=replace(prepared.plan, settings=expected.plan.settings),
            place=_place(before, later),
            then=partial(self._next, known, done) if later else None,
            whole=lambda made: joined(self.request, (*done, made)),
        )

    def _next(self, known: Known, done: tuple[Generation, ...], made: Generation) -> Prepared:
        part: Part | None = made.image or made.audio
        if made.text is not None:
            part = TextPart(made.text)
        assert part is not None  # a target that is made is there
        return self._stage({**known, self.stages[len(done)].outputs[0]: part}, (*done, made))


def plan_joint(bundle: LoadedBundle, request: GenerationRequest) -> Joint:
    """Checks and encodes all targets; raises RequestError as `prepare` does, with `edit[i]` in its `param`."""
    edits = _checked(request)
    if "audio" in edits:
        edits["audio"] = _with_seconds(bundle, edits)
    request = replace(request, edit=JointEdit(tuple(edits.values())))
    known = now = known_parts(edits.values())
    stages: list[Prepared] = []
    for kind in ORDER:
        if kind in edits and is_open(edits[kind]):
            stages.append(_prepared(bundle, request, kind, now))
            now = stand_in(bundle, edits[kind], now)
    if not stages:
        message = "the targets are complete; give one of them a mask, spans, a hole [MASK:n], or no content at all"
        raise RequestError(message, param="edit", code="edit_unsuitable")
    return Joint(bundle, request, known, tuple(_with_steps(stages, request.decoding.steps)))


def _checked(request: GenerationRequest) -> dict[Modality, Edit | Whole]:
    """The targets by their kinds."""
    assert isinstance(request.edit, JointEdit)
    edits: dict[Modality, Edit | Whole] = {}
    for i, edit in enumerate(request.edit.edits):
        if kind_of(edit) in edits:
            message = f"one target of a kind, not two of {kind_of(edit)}; edit them one by one"
            raise RequestError(message, param=f"edit[{i}].target", code="too_many_parts")
        edits[kind_of(edit)] = edit
    if request.task != "auto":
        message = "several targets are made by several tasks; leave `task` out"
        raise RequestError(message, param="task", code="edit_unsuitable")
    for kind in request.outputs:
        if kind not in edits:
            message = f"no target is {kind}; output may list {', '.join(edits)}"
            raise RequestError(message, param="output", code="output_unsuitable")
    check_decoding(request.decoding)
    return edits


def _with_seconds(bundle: LoadedBundle, edits: Mapping[Modality, Edit | Whole]) -> Edit | Whole:
    """The edit of speech with its spans in seconds, and without their words where those are still to be filled in."""
    edit = edits["audio"]
    if isinstance(edit, Whole):
        return edit
    spans = edit.spans
    if any(isinstance(span, WordSpan) for span in spans):
        with _param_of(list(edits).index("audio")):
            spans = timed_spans(bundle, edit)
        edit = replace(edit, transcript=None)
    if "text" in edits and is_open(edits["text"]):
        spans = tuple(replace(span, text=None) for span in spans)
    return replace(edit, spans=spans)


def _prepared(
    bundle: LoadedBundle, request: GenerationRequest, kind: Modality, known: Known, length: int | None = None
) -> Prepared:
    """The target of that kind as a request of its own; `length` is the canvas's, where that is known."""
    assert isinstance(request.edit, JointEdit)
    kinds = [kind_of(edit) for edit in request.edit.edits]
    at = kinds.index(kind)
    edit = request.edit.edits[at]
    is_whole_speech = isinstance(edit, Whole) and kind == "audio"
    alone = replace(
        request,
        parts=parts_for(bundle, kind, request.parts, known),
        outputs=(kind,),
        edit=edit if isinstance(edit, Edit) else None,
        decoding=replace(request.decoding, max_tokens=length if is_whole_speech else None),
        word_times=request.word_times and (kind == "audio" or "audio" not in kinds),
    )
    with _param_of(at):
        return prepare(bundle, alone)


@contextmanager
def _param_of(at: int) -> Iterator[None]:
    """What is wrong with the edit of that number says so."""
    try:
        yield
    except RequestError as error:
        if error.param is None or not error.param.startswith("edit"):
            raise
        param = f"edit[{at}]{error.param.removeprefix('edit')}"
        raise RequestError(error.message, param=param, code=error.code) from None


def _with_steps(stages: Sequence[Prepared], steps: int | None) -> Sequence[Prepared]:
    """The caller's number of steps, shared by what is masked in each target; each takes one at least."""
    if steps is None:
        return stages
    masked = [sum(stage.plan.masked_per_block(stage.plan.canvas)) for stage in stages]
    return [
        replace(stage, plan=replace(stage.plan, settings=replace(stage.plan.settings, steps=min(n, share))))
        for stage, n in zip(stages, masked, strict=True)
        for share in [max(1, steps * n // sum(masked))]
    ]


def _place(before: Sequence[Prepared], later: Sequence[Prepared]) -> Place:
    canvases = [stage.plan.canvas for stage in later]
    masked = sum(sum(stage.plan.masked_per_block(stage.plan.canvas)) for stage in later)
    positions = sum(map(len, canvases))
    return Place(
        step=sum(stage.plan.steps for stage in before),
        position=sum(len(stage.plan.canvas) for stage in before),
        later_steps=sum(stage.plan.steps for stage in later),
        later_positions=positions,
        later_pins=positions - masked,
    )
