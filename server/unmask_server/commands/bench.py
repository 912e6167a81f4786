"""`unmask bench serve`: a running server under a mixed load, as a table and then one JSON line."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
from rich.console import Console
from rich.table import Table

from unmask_server.bench.loops import PERCENTILES, Outcome, closed_loop, open_loop
from unmask_server.bench.workload import TASKS, Workload
from unmask_server.commands.exits import CommandError, UsageError

TIMEOUT_S: Final = 300.0


def bench_serve(
    *, url: str | None, api_key: str | None, clients: int, rate: float, seconds: float, tasks: Sequence[str], seed: int
) -> None:
    """Without a `url` a server of the built-in model is started; with a `rate` the loop is open."""
    if unknown := [task for task in tasks if task not in TASKS]:
        raise UsageError(f"unknown task {unknown[0]!r}; there are: {', '.join(TASKS)}")
    if url is not None:
        _show(measure(url, api_key, clients, rate, seconds, tasks, seed))
        return
    with started() as url:
        _show(measure(url, api_key, clients, rate, seconds, tasks, seed))


@contextmanager
def started() -> Iterator[str]:
    """The address of an `unmask serve` on a free port, as long as the context lasts."""
    unmask = Path(sys.executable).with_name("unmask")
    with subprocess.Popen([unmask, "serve", "--port", "0"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            line = server.stdout.readline().split()
            if not line:
                raise CommandError("the server did not start; run `unmask serve` to see why")
            yield line[4]
        finally:
            server.terminate()


def measure(
    url: str, api_key: str | None, clients: int, rate: float, seconds: float, tasks: Sequence[str], seed: int
) -> dict[str, Any]:
    """Raises CommandError where there is no such server, or it answers nothing."""
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    limits = httpx.Limits(max_connections=None)

    async def run(load: Workload) -> Outcome:
        async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, headers=headers, limits=limits) as client:
            return await (
                open_loop(client, load, rate, seconds) if rate else closed_loop(client, load, clients, seconds)
            )

    try:
        with httpx.Client(base_url=url, timeout=TIMEOUT_S, headers=headers) as client:
            load = Workload(client, tasks or _offered(client), seed)
        began = time.perf_counter()
        outcome = asyncio.run(run(load))
    except httpx.HTTPStatusError as error:
        raise CommandError(f"{url} refused: {error.response.text[:500]}") from None
    except httpx.HTTPError as error:
        raise CommandError(f"{url}: {error}") from None
    loop = f"open, {rate:g}/s" if rate else f"closed, {clients} clients"
    return {"loop": loop, **outcome.as_json(time.perf_counter() - began)}


def _offered(client: httpx.Client) -> list[str]:
    """The tasks that the server's model has, of those there are requests for."""
    answer = client.get("/v1/models")
    answer.raise_for_status()
    offered = {task for model in answer.json()["data"] for task in model.get("tasks", ())}
    if tasks := [task for task in TASKS if task in offered]:
        return tasks
    raise CommandError(f"the server's model has none of the tasks {', '.join(TASKS)}")


def _show(result: dict[str, Any]) -> None:
    title = f"{result['loop']}: {result['answered_per_s']:g} answers/s, failed: {result['failed'] or 'none'}"
    heads = [f"{what} p{p}" for what in ("first", "total") for p in PERCENTILES]
    table = Table("task", "answers", *heads, title=title, caption="seconds to the first output and to the end")
    for task, row in result["tasks"].items():
        table.add_row(task, str(row["count"]), *(f"{v:.3f}" for v in (*row["first"].values(), *row["total"].values())))
    Console().print(table)
    print(json.dumps(result))
    if not result["answered"]:
        raise CommandError(f"no request was answered; failed: {result['failed'] or 'none'}")
