"""Seconds and memory of the built-in model on this machine, through the real server: a table, then one JSON line.

    make bench

Starts `unmask serve`, times the start until /ready, then each task alone (median of several, after one warm-up).
Memory is the most that the server had resident while it did a task, counted anew for each; "resident MiB" is the most
of all. Speech in is speech that the model said before, cut or padded to three seconds. Targets are those for two CPU
cores. Also writes benchmarks/results/mini_cpu.json.
"""

import base64
import io
import json
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soundfile
from rich.console import Console
from rich.table import Table

REPEATS = 5
SENTENCE = "a red circle left of a blue square"
# Seconds, but for TTS, whose target is the real-time factor; MiB for memory.
TARGETS = {"ready": 6.0, "t2i": 4.0, "asr (3 s of speech)": 1.5, "tts real-time factor": 1.0, "resident MiB": 1536.0}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def start(port: int) -> tuple[subprocess.Popen[bytes], float]:
    """The server's process, and the seconds until it was ready."""
    began = time.perf_counter()
    unmask = Path(sys.executable).with_name("unmask")
    server = subprocess.Popen(
        [unmask, "serve", "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while time.perf_counter() - began < 120:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/ready").status_code == 200:
                return server, time.perf_counter() - began
        except httpx.TransportError:
            pass
        if server.poll() is not None:
            raise SystemExit(f"the server ended with {server.returncode}; run `unmask serve` to see why")
        time.sleep(0.02)
    raise SystemExit("the server was not ready within two minutes")


def ask(client: httpx.Client, parts: list[dict[str, str]], output: list[str]) -> tuple[dict[str, Any], float]:
    began = time.perf_counter()
    answer = client.post("/v1/generate", json={"input": parts, "output": output})
    seconds = time.perf_counter() - began
    answer.raise_for_status()
    return answer.json(), seconds


def part(answer: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(o for o in answer["output"] if o["type"] == kind)


def three_seconds(wav: str) -> str:
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(wav)), dtype="float32")
    samples = np.pad(samples, (0, max(0, 3 * rate - len(samples))))[: 3 * rate]
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    return base64.b64encode(file.getvalue()).decode()


def reset_peak(pid: int) -> None:
    """`peak_mib` counts from now on."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_mib(pid: int) -> float:
    """The most memory that a Linux process has had resident."""
    status = Path(f"/proc/{pid}/status").read_text()
    return float(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def main() -> None:
    port = free_port()
    server, ready = start(port)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            at_start = peak_mib(server.pid)
            numbers = {"ready": ready, "ready MiB": at_start, **measure(client, server.pid)}
            numbers["resident MiB"] = max(value for name, value in numbers.items() if name.endswith(" MiB"))
    finally:
        server.terminate()
        server.wait(30)
    table = Table("what", "measured", "target")
    for name, value in numbers.items():
        table.add_row(name, f"{value:.3g}", f"<= {TARGETS[name]:g}" if name in TARGETS else "")
    Console().print(table)
    met = all(numbers[name] <= limit for name, limit in TARGETS.items())
    line = json.dumps({"bench": "mini", "targets_met": met, **{k: round(v, 4) for k, v in numbers.items()}})
    Path(__file__).with_name("results").joinpath("mini_cpu.json").write_text(line + "\n")
    print(line)


def measure(client: httpx.Client, pid: int) -> dict[str, float]:
    text = {"type": "text", "text": SENTENCE}
    drawn, _ = ask(client, [text], ["image"])
    said, _ = ask(client, [text], ["audio"])
    picture = {"type": "image", "data": part(drawn, "image")["data"]}
    speech = {"type": "audio", "data": three_seconds(part(said, "audio")["data"])}
    question = {"type": "text", "text": "what color is the circle"}
    tasks: dict[str, tuple[list[dict[str, str]], list[str]]] = {
        "t2i": ([text], ["image"]),
        "vqa": ([question, picture], ["text"]),
        "asr (3 s of speech)": ([speech], ["text"]),
        "tts": ([text], ["audio"]),
        "s2i": ([speech], ["image"]),
        "svqa": ([speech, picture], ["text", "audio"]),
    }
    numbers: dict[str, float] = {}
    for name, (parts, output) in tasks.items():
        reset_peak(pid)
        ask(client, parts, output)
        runs = [ask(client, parts, output) for _ in range(REPEATS)]
        numbers[name] = statistics.median(seconds for _, seconds in runs)
        if name == "tts":
            numbers["tts real-time factor"] = numbers[name] / part(runs[0][0], "audio")["duration_s"]
        numbers[f"{name} MiB"] = peak_mib(pid)
    return numbers


if __name__ == "__main__":
    main()
