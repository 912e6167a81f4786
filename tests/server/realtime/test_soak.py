"""Four dialogues at a microphone's pace for ten minutes, interruptions included: nothing fails and memory stays flat.

UNMASK_SOAK_S makes it shorter or longer.
"""

import os
import random
import shutil
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from unmask_engine.engine import Engine
from unmask_engine.media import MediaLimits, read_audio, resample
from unmask_server.realtime.limits import RealtimeLimits
from unmask_server.settings import Settings

SECONDS = float(os.environ.get("UNMASK_SOAK_S", "600"))
DIALOGUES = 4
CHUNK_S = 0.1
PATIENCE_S = 60.0  # with one event
WARM = 0.25  # of the time; what is allocated until then is what a server holds
MAX_GROWTH_MIB = 48.0
LIMITS = RealtimeLimits(max_kept_audio_s=20, max_items=16)  # what a conversation may keep is reached soon
QUESTIONS = ("what is your name", "what color is the sky", "can you draw", "thank you")

pytestmark = [
    pytest.mark.slow,  # ten minutes
    pytest.mark.timeout(SECONDS + 600),
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads its memory from /proc"),
]


def spoken(text: str) -> NDArray[np.int16]:
    if shutil.which("flite") is None:
        pytest.skip("no voice: sudo apt-get install flite")
    command = ["flite", "-voice", "rms", "-t", text, "-o", "/dev/stdout"]
    wav = subprocess.run(command, capture_output=True, check=True).stdout
    return (resample(read_audio(wav, MediaLimits()), 24_000).samples * 32767).astype(np.int16)


def is_answer(event: dict[str, Any]) -> bool:
    """The end of one that was heard out."""
    return event["type"] == "response.done" and event["response"]["status"] != "cancelled"


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_four_dialogues(serve, make) -> None:
    questions = [spoken(text) for text in QUESTIONS]
    server = serve(Engine.load("unmask-mini"))
    with server.dial(settings=Settings(realtime=LIMITS)):  # it starts with the first session: not with four at once
        pass
    until = time.monotonic() + SECONDS
    memory: list[tuple[float, float]] = []  # seconds, MiB
    over = threading.Event()

    def watch() -> None:
        began = time.monotonic()
        while not over.wait(SECONDS / 60):
            memory.append((time.monotonic() - began, resident_mib()))

    def dialogue(number: int) -> dict[str, int]:
        rng = random.Random(number)
        statuses: dict[str, int] = {}
        with server.dial() as client:
            client.set(audio={"input": {"transcription": {"model": "default"}}})
            while time.monotonic() < until:
                turn = np.concatenate([rng.choice(questions), make.quiet(0.8)])
                for chunk in np.array_split(turn, int(len(turn) / 24_000 / CHUNK_S)):
                    client.speak(chunk)
                    time.sleep(CHUNK_S)
                while client.event(PATIENCE_S)["type"] != "input_audio_buffer.committed":
                    pass  # what is left of the answer before, which has ended by now, interrupted or not
                if rng.random() < 0.3:  # somebody does not wait for the end of the answer
                    while client.event(PATIENCE_S)["type"] not in ("response.output_audio.delta", "response.done"):
                        pass
                else:
                    while not is_answer(client.event(PATIENCE_S)):
                        pass
                for event in client.seen:
                    assert event["type"] != "error", event
                    if event["type"] == "response.done":
                        status = event["response"]["status"]
                        statuses[status] = statuses.get(status, 0) + 1
                client.seen.clear()  # or the test itself would grow
        return statuses

    threading.Thread(target=watch, daemon=True).start()
    with ThreadPoolExecutor(DIALOGUES) as pool:
        held = list(pool.map(dialogue, range(DIALOGUES)))
    over.set()
    warm = [mib for seconds, mib in memory if WARM * SECONDS <= seconds < 2 * WARM * SECONDS]
    late = [mib for seconds, mib in memory if seconds >= (1 - WARM) * SECONDS]
    print(
        f"memory {np.median(warm):.0f} -> {np.median(late):.0f} MiB; {[round(mib) for _, mib in memory[::6]]}; {held}"
    )
    assert all(statuses.get("completed", 0) + statuses.get("incomplete", 0) > 0 for statuses in held)
    assert not any("failed" in statuses for statuses in held)
    assert np.median(late) - np.median(warm) < MAX_GROWTH_MIB
