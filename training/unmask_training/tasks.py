"""Every task that `unmask eval` can score, by name."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from unmask_training.evaluate_codecs import image_codec, speech_codec
from unmask_training.evaluate_talk import spoken_talk, typed_talk
from unmask_training.examiner import Examiner

Task = Callable[[Examiner], Mapping[str, float]]

# Of the default table.
TASKS: Mapping[str, Task] = {
    "t2i": Examiner.t2i,
    "t2i_many": Examiner.t2i_many,
    "vqa": Examiner.vqa,
    "caption": Examiner.caption,
    "asr": Examiner.asr,
    "asr_unseen_voice": Examiner.asr_unseen_voice,
    "tts": Examiner.tts,
    "s2i": Examiner.s2i,
    "svqa": Examiner.svqa,
}
# Asked for by name: what the codecs alone lose, and small talk.
MORE: Mapping[str, Task] = {
    "image_codec": image_codec,
    "speech_codec": speech_codec,
    "chat": typed_talk,
    "sqa": spoken_talk,
}


@dataclass(frozen=True)
class Score:
    """One number of the table."""

    name: str
    value: float
    samples: int
    seconds: float  # of its task

    @property
    def higher_is_better(self) -> bool:
        """Of everything but word error rates."""
        return "WER" not in self.name.replace("1 - WER", "")

    def __str__(self) -> str:
        return f"{self.value:.1f} dB" if self.name.endswith("PSNR") else f"{100 * self.value:.1f} %"


def scores(examiner: Examiner, tasks: Sequence[str]) -> list[Score]:
    found = []
    for task in tasks:
        started = time.perf_counter()
        numbers = {**TASKS, **MORE}[task](examiner)
        seconds = time.perf_counter() - started
        found += [Score(name, value, examiner.samples, seconds) for name, value in numbers.items()]
    return found
