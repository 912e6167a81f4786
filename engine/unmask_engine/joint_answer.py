"""The answers of the targets of a joint edit as one."""

from collections.abc import Callable, Sequence

from unmask_engine.joint_parts import is_open
from unmask_engine.request import (
    AudioPart,
    Edit,
    Generation,
    GenerationRequest,
    ImagePart,
    JointEdit,
    Modality,
    TextPart,
    Timings,
    Usage,
)


def joined(request: GenerationRequest, made: Sequence[Generation]) -> Generation:
    """`made` in the order of making, the last one of them maybe cancelled; what was given comes back as it was."""
    assert isinstance(request.edit, JointEdit)
    given = [edit.target for edit in request.edit.edits if isinstance(edit, Edit) and not is_open(edit)]
    text = next((part.text for part in given if isinstance(part, TextPart)), None)
    audio = next((part for part in given if isinstance(part, AudioPart)), None)
    image = next((part for part in given if isinstance(part, ImagePart)), None)
    for one in made:
        text, audio, image = text if one.text is None else one.text, one.audio or audio, one.image or image
    asked = request.outputs or ("text", "audio", "image")
    return Generation(
        task="+".join(one.task for one in made),
        token_ids=tuple(token for one in made for token in one.token_ids),
        confidence=tuple(score for one in made for score in one.confidence),
        text=text if "text" in asked else None,
        audio=audio if "audio" in asked else None,
        image=image if "image" in asked else None,
        truncated=any(one.truncated for one in made),
        usage=_usage(made),
        timings=Timings(
            encode_ms=sum(one.timings.encode_ms for one in made),
            decode_ms=made[-1].timings.decode_ms,  # counted from the first step
            media_ms=sum(one.timings.media_ms for one in made),
        ),
        words=tuple(word for one in made for word in one.words),
        cancelled=any(one.cancelled for one in made),
    )


def _usage(made: Sequence[Generation]) -> Usage:
    def total(tokens: Callable[[Usage], dict[Modality, int]]) -> dict[Modality, int]:
        kinds: tuple[Modality, ...] = ("text", "audio", "image")
        return {kind: sum(tokens(one.usage).get(kind, 0) for one in made) for kind in kinds}

    return Usage(
        input_tokens=total(lambda usage: usage.input_tokens),
        output_tokens=total(lambda usage: usage.output_tokens),
        steps=sum(one.usage.steps for one in made),
        forward_passes=sum(one.usage.forward_passes for one in made),
    )
