"""Every task that `unmask eval` can score, by name."""

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from unmask_engine.bundle import Bundle
from unmask_training.evaluate_codecs import image_codec, speech_codec
from unmask_training.evaluate_pictures import captions, image_questions, one_thing, several_things
from unmask_training.evaluate_speech import (
    recognition,
    recognition_unseen_voice,
    speech_to_image,
    spoken_questions,
    synthesis,
)
from unmask_training.evaluate_talk import spoken_talk, typed_talk
from unmask_training.examiner import Examiner, Measures

Task = Callable[[Examiner], Measures]

# Of the default table.
TASKS: Mapping[str, Task] = {
    "t2i": one_thing,
    "t2i_many": several_things,
    "vqa": image_questions,
    "caption": captions,
    "asr": recognition,
    "asr_unseen_voice": recognition_unseen_voice,
    "tts": synthesis,
    "s2i": speech_to_image,
    "svqa": spoken_questions,
    "sqa": spoken_talk,
    "chat": typed_talk,
}
# Asked for by name: what the codecs alone lose.
MORE: Mapping[str, Task] = {"image_codec": image_codec, "speech_codec": speech_codec}
_PRESETS = {"t2i_many": "t2i", "asr_unseen_voice": "asr"}  # of tasks that are called otherwise


def possible(bundle: Bundle, tasks: Iterable[str]) -> list[str]:
    """Those of the tasks that a bundle has a preset for."""
    presets = {preset.task for preset in bundle.presets}
    return [task for task in tasks if task in MORE or _PRESETS.get(task, task) in presets]


@dataclass(frozen=True)
class Score:
    """One number of the table."""

    name: str
    value: float
    samples: int
    seconds: float  # of its task

    @property
    def higher_is_better(self) -> bool:
        """Of everything but error rates and distances."""
        name = self.name.replace("1 - WER", "")
        return "WER" not in name and "distance" not in name

    @property
    def unit(self) -> str:
        """Decibels, a bare number, or a share as percent."""
        if self.name.endswith("PSNR"):
            return "dB"
        return "" if self.name.endswith(("SSIM", "distance", "CLIP score")) else "%"

    @property
    def shown(self) -> float:
        """The value in its unit."""
        return 100 * self.value if self.unit == "%" else self.value

    def __str__(self) -> str:
        return f"{self.shown:.1f} {self.unit}" if self.unit else f"{self.value:.3f}"


def scores(examiner: Examiner, tasks: Sequence[str]) -> list[Score]:
    found = []
    for task in tasks:
        started = time.perf_counter()
        measures = {**TASKS, **MORE}[task](examiner)
        seconds = time.perf_counter() - started
        print(f"{task}: {seconds:.1f} s", file=sys.stderr, flush=True)
        found += [Score(name, m.value, m.samples, seconds) for name, m in measures.items()]
    return found
