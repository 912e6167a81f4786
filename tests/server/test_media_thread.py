"""The thread that media are made on, and which steps show a preview."""

import threading
from functools import partial

import pytest

from unmask_server.engine_client import Wants
from unmask_server.media_thread import MAX_AHEAD, MediaThread


def test_a_busy_media_thread_takes_no_previews(wait) -> None:
    media, done = MediaThread(), []
    begun, go_on = threading.Event(), threading.Event()

    def block() -> None:
        begun.set()
        assert go_on.wait(60)

    media.start()
    try:
        media.submit(block)
        assert begun.wait(60)
        assert media.offer(lambda: done.append("preview"))
        for i in range(MAX_AHEAD):
            media.submit(partial(done.append, i))
        assert not media.offer(lambda: done.append("late"))
        go_on.set()
        wait(lambda: len(done) > MAX_AHEAD)
        assert done == [*range(MAX_AHEAD), "preview"]
    finally:
        media.stop(60)


def test_the_media_thread_outlives_what_fails_on_it(wait) -> None:
    media, done = MediaThread(), []
    media.start()
    try:
        media.submit(lambda: 1 // 0)
        media.submit(partial(done.append, 1))
        wait(lambda: done == [1])
    finally:
        media.stop(60)


@pytest.mark.parametrize(("steps", "due"), [(64, [16, 32, 48]), (10, [3, 5, 8]), (4, [1, 2, 3]), (2, [1]), (1, [])])
def test_previews_are_spread_over_the_steps_that_are_planned(steps: int, due: list[int]) -> None:
    wants = Wants(num_previews=3)
    assert [step for step in range(1, steps + 1) if wants.is_preview_due(step, steps)] == due
