"""The items of one dialogue, in order, and bounded."""

from collections.abc import Sequence
from dataclasses import replace

from unmask_engine.request import RequestError
from unmask_server.realtime.events import new_id
from unmask_server.realtime.items import Content, Heard, Item, Said, Shown
from unmask_server.realtime.limits import RealtimeLimits

ROOT = "root"  # what stands before the first item


class Conversation:
    def __init__(self, limits: RealtimeLimits) -> None:
        self.id = new_id("conv")
        self._limits = limits
        self._items: list[Item] = []
        self._cuts: dict[str, int] = {}  # items still being said that the user has stopped listening to, and when (ms)

    @property
    def items(self) -> tuple[Item, ...]:
        return tuple(self._items)

    def get(self, item_id: object, purpose: str) -> Item:
        """Raises RequestError; `purpose` is the last word of the event's type."""
        for item in self._items:
            if item.id == item_id:
                return item
        message = f"There is no item {str(item_id)[:128]!r} in this conversation."
        raise RequestError(message, param="item_id", code=f"item_{purpose}_invalid_item_id")

    def previous_id(self, item_id: str) -> str | None:
        at = self._index(item_id)
        return self._items[at - 1].id if at else None

    def add(self, item: Item, previous_id: object = None) -> None:
        """Behind `previous_id`, or last; raises RequestError."""
        if any(other.id == item.id for other in self._items):
            message = f"There is an item {item.id!r} already."
            raise RequestError(message, param="item.id", code="item_create_duplicate_item_id")
        at = len(self._items)
        if previous_id == ROOT:
            at = 0
        elif previous_id is not None:
            at = 1 + self._index(self.get(previous_id, "create").id)
        self._items.insert(at, item)
        self._leave(item)
        self._forget()

    def replace(self, item: Item) -> bool:
        """The item of the same id; False where it has left."""
        is_there = any(other.id == item.id for other in self._items)
        if is_there:
            self._items[self._index(item.id)] = item
            if item.status != "in_progress" and (ms := self._cuts.pop(item.id, None)) is not None:
                self.truncate(item, ms)
        return is_there

    def remove(self, item: Item) -> None:
        self._items.pop(self._index(item.id))
        self._cuts.pop(item.id, None)

    def write_down(self, item_id: str, transcript: str) -> None:
        """What was heard in an item that is one recording, if it is still there."""
        item = next((item for item in self._items if item.id == item_id), None)
        if item is not None and isinstance(heard := item.content[0], Heard):
            self.replace(replace(item, content=(replace(heard, transcript=transcript),)))

    def truncate(self, item: Item, ms: int) -> None:
        """Of what the model said, or is saying, only the first `ms` were heard; it may be more than there was."""
        if item.status == "in_progress":
            self._cuts[item.id] = ms
            return
        content = tuple(c.until(ms) if isinstance(c, Said) else c for c in item.content)
        self.replace(replace(item, content=content))

    def _index(self, item_id: str) -> int:
        return next(i for i, item in enumerate(self._items) if item.id == item_id)

    def _leave(self, newest: Item) -> None:
        """The oldest items, where there are too many or too long ones."""
        items, characters = self._items, sum(item.num_characters for item in self._items)
        while len(items) > self._limits.max_items or (characters > self._limits.max_kept_characters and len(items) > 1):
            oldest = items.pop(1 if items[0] is newest else 0)
            characters -= oldest.num_characters
            self._cuts.pop(oldest.id, None)

    def _forget(self) -> None:
        self._items = without_old_media(self._items, self._limits)


def without_old_media(items: Sequence[Item], limits: RealtimeLimits) -> list[Item]:
    """Of the oldest recordings and pictures, where there are too many, only the places stay."""
    left_s, left_images, left_pixels = limits.max_kept_audio_s, limits.max_kept_images, limits.max_kept_pixels
    left: list[Item] = []
    for item in reversed(items):
        kept: list[Content] = []
        for content in reversed(item.content):
            if isinstance(content, Heard):
                left_s -= content.seconds
                content = content if left_s >= 0 else replace(content, samples=None)
            elif isinstance(content, Shown):
                is_latest = left_images == limits.max_kept_images
                left_images, left_pixels = left_images - 1, left_pixels - content.num_pixels
                content = content if is_latest or (left_images >= 0 and left_pixels >= 0) else Shown(None)
            kept.append(content)
        left.append(replace(item, content=tuple(reversed(kept))))
    return left[::-1]
