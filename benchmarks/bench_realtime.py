"""Spoken dialogues in real time against a running server: latencies as a table, then one JSON line.

    .venv/bin/python benchmarks/bench_realtime.py                      # starts `unmask serve` itself
    .venv/bin/python benchmarks/bench_realtime.py --url http://host:8000 --dialogues 1 8 32 --turns 5

Each dialogue is a session of its own that asks one question after another, at a microphone's pace, and hears each
answer out. First sound: from `speech_stopped`, the end of the silence that ends a turn, to the first audio delta, as
the client sees them. Real-time factor: from there to the end of the answer, over the answer's length. Underruns: the
answers that have gaps for who plays them as they come. The server's own voice asks the questions.
"""

import argparse
import asyncio
import json
import time
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from websockets.asyncio.client import ClientConnection, connect

from unmask_engine.media import MediaLimits, read_audio, resample
from unmask_server.commands.bench import started
from unmask_server.commands.realtime import Turn, speak
from unmask_server.realtime.audio import PCM_RATE
from unmask_server.realtime.playback import Playback

QUESTIONS = ("hello", "how are you", "who are you", "what can you do", "thank you")
PAUSE_S = 0.3  # between dialogues' beginnings, so that they do not speak in chorus
MAX_GAP_S = 0.02  # of one answer; any player holds as much back
# By dialogues at a time: the most that each may be. Four are served at half the speed of one, and still without gaps.
TARGETS = {
    1: {"first_ms_p50": 700.0, "real_time_factor_p50": 0.8},
    4: {"first_ms_p50": 1400.0, "real_time_factor_p50": 1.6, "underruns": 0.0},
}


class Ear(ClientConnection):
    """Notes how the sound of each answer comes."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.gaps_s: list[float] = []  # of each answer that was heard out
        self._playback, self._sent_s = Playback(), 0.0

    async def recv(self, decode: bool | None = None) -> Any:
        message = await super().recv(decode)
        event = json.loads(message)
        if event["type"] == "response.created":
            self._playback, self._sent_s = Playback(), 0.0
        elif event["type"] == "response.output_audio.delta":
            self._sent_s += len(event["delta"]) * 3 // 4 / 2 / PCM_RATE  # base64 of 16 bits
            self._playback.sent(self._sent_s)
        elif event["type"] == "response.done" and event["response"]["status"] != "cancelled":
            self.gaps_s.append(self._playback.underrun_s)
        return message


def recorded(client: httpx.Client, text: str) -> NDArray[np.int16]:
    answer = client.post("/v1/generate", json={"input": text, "output": ["audio"]}, headers={"accept": "audio/wav"})
    answer.raise_for_status()
    samples = resample(read_audio(answer.content, MediaLimits()), PCM_RATE).samples
    return np.rint(samples * 32767).clip(-32768, 32767).astype(np.int16)


async def dialogue(
    url: str, headers: dict[str, str], questions: list[NDArray[np.int16]], delay_s: float
) -> tuple[list[Turn], list[float]]:
    """The turns, and the seconds of gaps in the answer to each."""
    await asyncio.sleep(delay_s)
    address = url.replace("http", "ws", 1) + "/v1/realtime?model=default"
    async with connect(address, additional_headers=headers, max_size=None, create_connection=Ear) as socket:
        assert isinstance(socket, Ear)
        turns = []
        for question in questions:
            turns.append(await speak(socket, question))
            await asyncio.sleep(max(0.0, turns[-1].first_audio_at + turns[-1].seconds - time.perf_counter()))
        return turns, socket.gaps_s


async def measure(
    url: str, headers: dict[str, str], questions: list[NDArray[np.int16]], dialogues: int
) -> dict[str, Any]:
    held = await asyncio.gather(*(dialogue(url, headers, questions, i * PAUSE_S) for i in range(dialogues)))
    turns = [turn for one, _ in held for turn in one]
    gaps_s = [gap_s for _, gaps_s in held for gap_s in gaps_s]
    spoken = [turn for turn in turns if turn.speech]
    first = [turn.first_audio_ms for turn in spoken]
    factors = [turn.real_time_factor for turn in spoken]
    return {
        "dialogues": dialogues,
        "turns": len(turns),
        "without_speech": len(turns) - len(spoken),
        "speech_s_mean": round(float(np.mean([turn.seconds for turn in spoken])), 2),
        **{f"first_ms_p{p}": round(float(np.percentile(first, p)), 1) for p in (50, 95)},
        **{f"real_time_factor_p{p}": round(float(np.percentile(factors, p)), 3) for p in (50, 95)},
        "underruns": sum(gap_s > MAX_GAP_S for gap_s in gaps_s),
        "gap_ms_max": round(1000 * max(gaps_s), 1),
    }


def verdicts(row: dict[str, Any]) -> list[str]:
    """What its number of dialogues is to reach."""
    targets = TARGETS.get(row["dialogues"], {})
    return [
        f"{row['dialogues']} at a time, {name}: {row[name]:g} "
        f"(at most {target:g}: {'met' if row[name] <= target else 'MISSED'})"
        for name, target in targets.items()
    ]


def run(url: str, options: argparse.Namespace) -> None:
    headers = {"authorization": f"Bearer {options.api_key}"} if options.api_key else {}
    with httpx.Client(base_url=url, timeout=60, headers=headers) as client:
        questions = [recorded(client, QUESTIONS[i % len(QUESTIONS)]) for i in range(options.turns)]
    rows = [asyncio.run(measure(url, headers, questions, dialogues)) for dialogues in options.dialogues]
    table = Table(*(name.replace("_", " ") for name in rows[0]), title="turns of spoken dialogues")
    for row in rows:
        table.add_row(*map(str, row.values()))
    console = Console()
    console.print(table)
    for row in rows:
        for verdict in verdicts(row):
            console.print(verdict)
    print(json.dumps(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="of a running server; without it one is started")
    parser.add_argument("--api-key", default="")
    parser.add_argument("--dialogues", type=int, nargs="+", default=[1, 4], help="at a time")
    parser.add_argument("--turns", type=int, default=10, help="of each dialogue")
    options = parser.parse_args()
    if options.url:
        run(options.url.rstrip("/"), options)
    else:
        with started() as url:
            run(url, options)


if __name__ == "__main__":
    main()
