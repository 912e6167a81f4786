"""Requests of all tasks in turn, their words drawn by a seed; the server makes the media that go in."""

import base64
import random
from collections.abc import Iterator, Sequence
from typing import Any, Final

import httpx

Body = dict[str, Any]

WORDS: Final = {
    "caption": ("a red circle", "a small blue star in the top left", "a green square left of a yellow heart"),
    "sentence": ("hello", "a purple cross", "what color is the star", "one two three four five"),
    "question": ("what color is it", "how many shapes are there", "where is the circle"),
}
# What each task takes: words of a kind, or media that the server makes of them.
TASKS: Final[dict[str, tuple[str, ...]]] = {
    "t2i": ("caption",),
    "tts": ("sentence",),
    "asr": ("recording",),
    "vqa": ("question", "picture"),
    "caption": ("picture",),
    "s2i": ("recording",),
    "sqa": ("recording",),
    "svqa": ("recording", "picture"),
    "chat": ("sentence",),
}
MADE: Final = {"picture": ("image", "caption"), "recording": ("audio", "sentence")}


class Workload:
    """Makes the media of `tasks` when it is built; raises httpx.HTTPError where the server does not."""

    def __init__(self, client: httpx.Client, tasks: Sequence[str], seed: int) -> None:
        self.seed = seed
        self._tasks = tuple(tasks)
        needed = {kind for task in tasks for kind in TASKS[task] if kind in MADE}
        self._media = {kind: [_made(client, text, MADE[kind][0]) for text in WORDS[MADE[kind][1]]] for kind in needed}

    def requests(self) -> Iterator[tuple[str, Body]]:
        """Without end: each task once, in an order drawn anew, and again."""
        rng = random.Random(self.seed)
        while True:
            for task in rng.sample(self._tasks, len(self._tasks)):
                yield task, {"task": task, "input": [self._part(kind, rng) for kind in TASKS[task]]}

    def _part(self, kind: str, rng: random.Random) -> Body:
        if kind in MADE:
            return {"type": MADE[kind][0], "data": rng.choice(self._media[kind])}
        return {"type": "text", "text": rng.choice(WORDS[kind])}


def _made(client: httpx.Client, text: str, modality: str) -> str:
    body = {"input": text, "output": [modality]}
    answer = client.post("/v1/generate", json=body, headers={"accept": f"{modality}/*"})
    answer.raise_for_status()
    return base64.b64encode(answer.content).decode()
