"""What was said and when, as subtitle files."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    text: str
    start: float  # s
    end: float


def srt(segments: Sequence[Segment]) -> str:
    return "\n".join(
        f"{number}\n{_time(segment.start, ',')} --> {_time(segment.end, ',')}\n{segment.text}\n"
        for number, segment in enumerate(segments, 1)
    )


def vtt(segments: Sequence[Segment]) -> str:
    cues = (f"{_time(segment.start, '.')} --> {_time(segment.end, '.')}\n{segment.text}\n" for segment in segments)
    return "\n".join(("WEBVTT\n", *cues))


def _time(seconds: float, mark: str) -> str:
    minutes, ms = divmod(round(1000 * seconds), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{ms // 1000:02}{mark}{ms % 1000:03}"
