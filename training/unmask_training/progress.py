"""A progress bar on a terminal; anywhere else nothing is printed."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Show = Callable[[float, str], None]  # how much is done, and a remark


@contextmanager
def bar(title: str, total: float, visible: bool = True) -> Iterator[Show]:
    """A bar from 0 to `total` on stderr, with the time that is left."""
    if not (visible and sys.stderr.isatty()):
        yield lambda done, note: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    ends = (TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, *ends, console=Console(stderr=True), refresh_per_second=1) as progress:
        task = progress.add_task(title, total=total, note="")
        yield lambda done, note: progress.update(task, completed=done, note=note)
