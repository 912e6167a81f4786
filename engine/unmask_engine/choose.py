"""Which preset answers a request: by the task it names, else by what goes in and what is to come out."""

from collections.abc import Sequence

from unmask_engine.preset import Preset
from unmask_engine.request import GenerationRequest, ImagePart, Modality, Part, RequestError, TextPart


def modality(part: Part) -> Modality:
    if isinstance(part, TextPart):
        return "text"
    return "image" if isinstance(part, ImagePart) else "audio"


def choose_preset(presets: Sequence[Preset], request: GenerationRequest) -> Preset:
    """The first preset that fits; raises RequestError that lists what the bundle can do.

    With `task: auto` the inputs must be a preset's inputs. Its outputs may be more than what is asked for: a spoken
    answer comes with its text, which a caller need not take.
    """
    inputs = frozenset(map(modality, request.parts))
    outputs = frozenset(request.outputs)
    if request.task != "auto":
        preset = next((preset for preset in presets if preset.task == request.task), None)
        if preset is None:
            raise RequestError(
                f"unknown task {request.task!r}; there are: auto, {', '.join(preset.task for preset in presets)}",
                param="task",
                code="task_unknown",
            )
        if inputs != frozenset(preset.inputs):
            raise RequestError(
                f"task {preset.task} takes {_names(preset.inputs)}, not {_names(inputs)}",
                param="input",
                code="input_unsuitable",
            )
        if not outputs <= frozenset(preset.outputs):
            raise RequestError(
                f"task {preset.task} gives {_names(preset.outputs)}, not {_names(outputs)}",
                param="output",
                code="output_unsuitable",
            )
        return preset
    if not outputs:
        raise RequestError("name at least one output", param="output", code="output_missing")
    fitting = [preset for preset in presets if inputs == frozenset(preset.inputs)]
    for preset in fitting:
        if outputs == frozenset(preset.outputs):
            return preset
    for preset in fitting:
        if outputs < frozenset(preset.outputs):
            return preset
    raise RequestError(
        f"nothing here turns {_names(inputs)} into {_names(outputs)}; there are: {_pairs(presets)}",
        param="output" if fitting else "input",
        code="modalities_unsupported",
    )


def _pairs(presets: Sequence[Preset]) -> str:
    return "; ".join(f"{_names(preset.inputs)} -> {_names(preset.outputs)} ({preset.task})" for preset in presets)


def _names(modalities: Sequence[Modality] | frozenset[Modality]) -> str:
    return " + ".join(sorted(modalities, key=("text", "audio", "image").index)) or "nothing"
