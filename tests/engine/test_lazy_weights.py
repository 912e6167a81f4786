"""What is read of a bundle's files, and when: headers; pages that are used; the speech tokenizer when it is needed."""

import json
import shutil
import struct
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from unmask_engine import loaded
from unmask_engine.bundle import BundleError, load_bundle
from unmask_engine.check import check_bundle
from unmask_engine.checkpoint import load_weights
from unmask_engine.codecs.speech_tokenizer import SpeechTokenizer
from unmask_engine.components import build_component, load_component
from unmask_engine.loaded import LazySpeechTokens, LoadedBundle
from unmask_engine.testing_fakes import FakeSpeechTokenizer

MIB = 1 << 20
TOKENIZER: dict[str, Any] = {"d_model": 16, "num_heads": 2, "ffn_size": 16, "num_layers": 1, "codebook_size": 64}
LARGE = {"hidden_size": 2048, "intermediate_size": 16384, "num_layers": 16, "num_heads": 16, "num_kv_heads": 4}
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def described(folder: Path) -> dict[str, Any]:
    description: dict[str, Any] = json.loads((folder / "bundle.json").read_text())
    return description


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """With a speech tokenizer."""
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "tiny"))
    description = described(folder)
    description["components"]["speech_tokenizer"] = {
        "config": TOKENIZER,
        "source": {"files": ["speech_tokenizer.safetensors"]},
        "optional": True,
    }
    (folder / "bundle.json").write_text(json.dumps(description))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = build_component(load_bundle(folder), "speech_tokenizer").to_empty(device="cpu")
        state = {name: torch.randn_like(tensor) / 4 for name, tensor in made.state_dict().items()}
    save_file(state, folder / "speech_tokenizer.safetensors")
    return folder


def test_the_speech_tokenizer_is_loaded_once_and_when_it_is_needed(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []

    def noted(bundle: Any, name: Any, **options: Any) -> nn.Module:
        names.append(name)
        return load_component(bundle, name, **options)

    monkeypatch.setattr(loaded, "load_component", noted)
    tokenizer = LoadedBundle.load(bundle).speech_tokenizer
    assert tokenizer is not None
    assert "backbone" in names
    assert "speech_tokenizer" not in names
    samples = torch.sin(torch.arange(8000) / 9)
    expected = load_component(load_bundle(bundle), "speech_tokenizer")
    assert isinstance(expected, SpeechTokenizer)
    together = Barrier(4)

    @torch.inference_mode()
    def encode() -> Tensor:
        together.wait(60)
        return tokenizer.encode(samples)

    with ThreadPoolExecutor() as pool:
        codes = [job.result() for job in [pool.submit(encode) for _ in range(4)]]
    assert names.count("speech_tokenizer") == 1
    for found in codes:
        assert torch.equal(found, expected.encode(samples))


def test_a_speech_tokenizer_that_does_not_fit_is_refused_before_it_is_needed(bundle: Path) -> None:
    save_file({"conv1.weight": torch.zeros(3)}, bundle / "speech_tokenizer.safetensors")
    with pytest.raises(BundleError, match="does not fit SpeechTokenizer"):
        LoadedBundle.load(bundle)
    (bundle / "speech_tokenizer.safetensors").unlink()
    assert LoadedBundle.load(bundle).speech_tokenizer is None


def test_a_load_that_failed_is_tried_again() -> None:
    outcomes = iter([torch.OutOfMemoryError("no room"), FakeSpeechTokenizer()])

    def load() -> FakeSpeechTokenizer:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    lazy = LazySpeechTokens(load)
    with pytest.raises(torch.OutOfMemoryError):
        lazy.encode(torch.zeros(1280))
    assert [lazy.encode(torch.full((1280,), level / 32)).tolist() for level in (3, 9)] == [[3], [9]]


def resident(field: str) -> int:
    """Bytes of this process's memory."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(f"{field}:")).split()[1]) * 1024


def file_mapped_at(address: int) -> str | None:
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, _, _, _, *name = line.split(maxsplit=5)
        start, stop = (int(end, 16) for end in span.split("-"))
        if start <= address < stop:
            return name[0] if name else None
    return None


@on_linux
def test_weights_on_a_cpu_are_pages_of_their_file(tmp_path: Path) -> None:
    file = tmp_path / "wide.safetensors"
    save_file({"weight": torch.ones(2048, 8192), "bias": torch.ones(2048)}, file)  # 64 MiB
    with torch.device("meta"):
        mapped, cast = nn.Linear(8192, 2048), nn.Linear(8192, 2048)
    before = resident("RssAnon")
    load_weights(mapped, [file])
    assert resident("RssAnon") - before < 16 * MIB
    assert {file_mapped_at(weight.data_ptr()) for weight in mapped.parameters()} == {str(file)}
    load_weights(cast, [file], dtype=torch.bfloat16)
    assert file_mapped_at(cast.weight.data_ptr()) != str(file)


def write_header(file: Path, shapes: Mapping[str, Sequence[int]]) -> int:
    """A safetensors file of float32 tensors whose values nobody has written; -> bytes of them."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(encoded)) + encoded)
        out.truncate(8 + len(encoded) + end)
    return end


@on_linux
def test_check_reads_headers_only(bundle: Path) -> None:
    description = described(bundle)
    description["components"]["backbone"]["config"]["backbone"] |= LARGE
    (bundle / "bundle.json").write_text(json.dumps(description))
    module = build_component(load_bundle(bundle), "backbone")
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    size = write_header(bundle / "backbone.safetensors", shapes)
    assert size > 4096 * MIB
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, read_before = resident("VmHWM"), bytes_read()
    assert check_bundle(bundle).ok
    assert resident("VmHWM") - before < 64 * MIB
    assert bytes_read() - read_before < 64 * MIB


def bytes_read() -> int:
    """By this process, from files and all else."""
    return int(Path("/proc/self/io").read_text().split()[1])
