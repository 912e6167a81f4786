"""What spoken answers said, for the clients that name an earlier one by its id instead of sending it again."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Final

MAX_KEPT: Final = 1000


class SpokenReplies(Mapping[str, str]):
    """Transcripts by id; the oldest ones are forgotten."""

    def __init__(self) -> None:
        self._transcripts: OrderedDict[str, str] = OrderedDict()

    def keep(self, id: str, transcript: str) -> None:
        self._transcripts[id] = transcript
        if len(self._transcripts) > MAX_KEPT:
            self._transcripts.popitem(last=False)

    def __getitem__(self, id: str) -> str:
        return self._transcripts[id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._transcripts)

    def __len__(self) -> int:
        return len(self._transcripts)
