"""Tokenised samples on disk: written once, one after another, then read at random.

Flat files of ids and speech rows, and `index.jsonl` with a line for each sample that says where its parts lie. The line
is written last, so that a killed run goes on behind the last whole sample.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmask_training.bundle_writer import Span, Written


class SampleStore:
    """Samples of a data set for one bundle; `origin` says which, and what it was told. `size` is a speech row's."""

    def __init__(self, folder: Path, size: int, origin: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.size = folder, size
        description = folder / "origin.json"
        if description.exists() and json.loads(description.read_text()) != origin:
            raise ValueError(f"{folder} holds the samples of other data or of another bundle; use another --out")
        description.write_text(json.dumps(origin))
        self._index = list(self._read_index())
        for name in ("ids.bin", "rows.bin"):
            (folder / name).touch()

    def _read_index(self) -> Iterator[dict[str, Any]]:
        path = self.folder / "index.jsonl"
        if path.exists():
            for line in path.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):  # else the run was killed while it wrote the line
                    yield json.loads(line)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def is_complete(self) -> bool:
        return (self.folder / "complete").exists()

    def complete(self) -> None:
        (self.folder / "complete").touch()

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sample without tail pads."""
        return [entry["length"] for entry in self._index]

    def extend(self, samples: Iterator[Written]) -> None:
        """Append samples; what a killed run left behind the last whole one is overwritten."""
        with (
            (self.folder / "ids.bin").open("r+b") as ids,
            (self.folder / "rows.bin").open("r+b") as rows,
            (self.folder / "index.jsonl").open("wb") as index,
        ):
            index.writelines(_line(entry) for entry in self._index)
            last = self._index[-1] if self._index else {"ids_end": 0, "rows_end": 0}
            ids.truncate(4 * last["ids_end"])
            rows.truncate(2 * self.size * last["rows_end"])
            ids.seek(0, 2)
            rows.seek(0, 2)
            for sample in samples:
                entry = self._append(sample, ids, rows)
                index.write(_line(entry))
                index.flush()
                self._index.append(entry)

    def _append(self, sample: Written, ids: Any, rows: Any) -> dict[str, Any]:
        last = self._index[-1] if self._index else {"ids_end": 0, "rows_end": 0}
        bare = sample.bare or []
        ids.write(np.asarray([*sample.ids, *bare], np.int32).tobytes())
        for _, encoded in sample.speech:
            rows.write(encoded.astype(np.float16).tobytes())
        ids.flush()
        rows.flush()
        return {
            "length": len(sample.ids),
            "bare": None if sample.bare is None else len(bare),
            "answers": [asdict(span) for span in sample.answers],
            "speech": [[at, len(encoded)] for at, encoded in sample.speech],
            "ids_end": last["ids_end"] + len(sample.ids) + len(bare),
            "rows_end": last["rows_end"] + sum(len(encoded) for _, encoded in sample.speech),
        }

    def __getitem__(self, i: int) -> Written:
        entry = self._index[i]
        count = entry["length"] + (entry["bare"] or 0)
        ids = self._slice("ids.bin", np.int32, entry["ids_end"] - count, count, 1)[:, 0].tolist()
        row = entry["rows_end"] - sum(n for _, n in entry["speech"])
        speech: list[tuple[int, NDArray[np.float16]]] = []
        for at, n in entry["speech"]:
            speech.append((at, self._slice("rows.bin", np.float16, row, n, self.size)))
            row += n
        spans = tuple(Span(**span) for span in entry["answers"])
        bare = None if entry["bare"] is None else ids[entry["length"] :]
        return Written(ids[: entry["length"]], spans, tuple(speech), bare)

    def _slice(self, name: str, dtype: Any, start: int, count: int, width: int) -> NDArray[Any]:
        item = np.dtype(dtype).itemsize * width
        flat = np.fromfile(self.folder / name, dtype, count * width, offset=start * item)
        return flat.reshape(count, width)


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry).encode() + b"\n"
