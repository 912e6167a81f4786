"""The items of one dialogue, in order, and bounded."""

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
        del self._items[: len(self._items) + 1 - self._limits.max_items]
        at = len(self._items)
        if previous_id == ROOT:
            at = 0
        elif previous_id is not None:
            at = 1 + self._items.index(self.get(previous_id, "create"))
        self._items.insert(at, item)
        self._forget()

    def replace(self, item: Item) -> bool:
        """The item of the same id; False where it has left."""
        is_there = any(other.id == item.id for other in self._items)
        if is_there:
            self._items[self._index(item.id)] = item
        return is_there

    def remove(self, item: Item) -> None:
        self._items.pop(self._index(item.id))

    def truncate(self, item: Item, ms: int) -> None:
        """Of what the model said only the first `ms` were heard; it may be more than there was."""
        content = tuple(c.until(ms) if isinstance(c, Said) else c for c in item.content)
        self.replace(replace(item, content=content))

    def _index(self, item_id: str) -> int:
        return next(i for i, item in enumerate(self._items) if item.id == item_id)

    def _forget(self) -> None:
        """The oldest recordings and pictures, where there are too many; their places stay."""
        left_s, left_images = self._limits.max_kept_audio_s, self._limits.max_kept_images
        for item in reversed(self._items):
            kept: list[Content] = []
            for content in item.content:
                if isinstance(content, Heard):
                    left_s -= content.seconds
                    content = content if left_s >= 0 else replace(content, samples=None)
                elif isinstance(content, Shown):
                    left_images -= 1
                    content = content if left_images >= 0 else Shown(None)
                kept.append(content)
            self.replace(replace(item, content=tuple(kept)))
