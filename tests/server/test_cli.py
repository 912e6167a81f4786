"""`unmask`: exit codes, messages, files. The engine is a fake; nothing here needs a model."""

import json
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import soundfile
from PIL import Image

from unmask_server.cli import main


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, new_engine):
    """What `Engine.load` returns in these tests."""
    loader = SimpleNamespace(load=lambda path, device, policy=None: new_engine)
    monkeypatch.setitem(sys.modules, "unmask_engine.engine", SimpleNamespace(Engine=loader))
    return new_engine


@pytest.fixture
def unmask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def run(*arguments: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["unmask", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as exit_:
            code = exit_.code or 0
        said = capsys.readouterr()
        return SimpleNamespace(code=code, out=said.out, err=said.err)

    return run


MODEL = ("--model", "omni-diffusion")  # only its description is read, the engine being a fake


def test_a_prompt_prints_text(unmask, engine) -> None:
    done = unmask("generate", "hello", *MODEL)
    assert (done.code, done.out, done.err) == (0, "hello\n", "")


def test_the_suffix_says_what_to_make(unmask, engine, tmp_path: Path) -> None:
    assert unmask("generate", "a red circle", "-o", tmp_path / "scene.png", *MODEL).code == 0
    with Image.open(tmp_path / "scene.png") as scene:
        assert scene.size == (24, 16)
    assert unmask("generate", "hello", "-o", tmp_path / "hello.flac", *MODEL).code == 0
    assert soundfile.info(tmp_path / "hello.flac").samplerate == 22050
    assert unmask("generate", "hello", "-o", tmp_path / "hello.txt", *MODEL).code == 0
    assert (tmp_path / "hello.txt").read_text() == "hello\n"


def test_files_go_in(unmask, engine, tmp_path: Path, png: bytes, wav: bytes) -> None:
    (tmp_path / "p.png").write_bytes(png)
    (tmp_path / "q.wav").write_bytes(wav)
    done = unmask("generate", "--audio", tmp_path / "q.wav", "--image", tmp_path / "p.png", *MODEL)
    assert done.code == 0
    assert [type(part).__name__ for part in engine.requests[-1].parts] == ["AudioPart", "ImagePart"]


def test_json_is_one_object(unmask, engine, tmp_path: Path) -> None:
    done = unmask("generate", "x", "--json", "--seed", 4, "--steps", 3, "-o", tmp_path / "a.png", *MODEL)
    answer = json.loads(done.out)
    assert answer["output"] == str(tmp_path / "a.png")
    assert answer["usage"]["steps"] == 2
    assert (engine.requests[-1].decoding.seed, engine.requests[-1].decoding.steps) == (4, 3)


def test_a_full_canvas_is_said(unmask, engine) -> None:
    done = unmask("generate", "cut", *MODEL)
    assert (done.code, done.out) == (0, "cut\n")
    assert "--max-tokens" in done.err


def test_mistakes_exit_with_2(unmask, engine, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.wav").touch()
    folder = tmp_path / "folder.png"
    folder.mkdir()
    mistakes = {
        (): "nothing to answer",
        ("x", "-o", tmp_path / "a.xyz"): "the suffix says",
        ("x", "-o", tmp_path / "no" / "a.png"): "folder does not exist",
        ("x", "-o", folder): "name a file",
        ("x", "--device", "gpu"): "auto, cpu, cuda",
        ("x", "--model", "nothing"): "no bundle 'nothing'",
        ("x", "--algorithm", "magic"): "entropy-penalty",
        ("x", "--steps", "many"): "--steps",
        ("--image", tmp_path / "gone.png"): "No such file",
        ("--image", tmp_path / "text.png"): "Expected image",
        ("--audio", tmp_path / "empty.wav"): "is empty",
        ("--audio", tmp_path): "directory",
    }
    for arguments, message in mistakes.items():
        done = unmask("generate", *arguments, *(() if "--model" in arguments else MODEL))
        assert done.code == 2, arguments
        assert message in done.err
        assert done.out == ""


def test_the_engines_refusals_exit_with_2(unmask, engine, monkeypatch: pytest.MonkeyPatch) -> None:
    from unmask_engine.request import RequestError

    def refuse(*_: object, **__: object) -> None:
        raise RequestError("steps is 0; it may be 1 to 64.", param="decoding.steps")

    monkeypatch.setattr(engine, "generate", refuse)
    done = unmask("generate", "x", "--steps", "0", *MODEL)
    assert (done.code, done.err) == (2, "unmask: steps is 0; it may be 1 to 64.\n")


def test_a_crash_exits_with_1_and_one_line(unmask, engine) -> None:
    done = unmask("generate", "crash", *MODEL)
    assert done.code == 1
    assert done.err.startswith("unmask: unexpected RuntimeError")
    assert done.err.count("\n") == 1


def test_unknown_commands_and_options_exit_with_2(unmask) -> None:
    assert unmask("dance").code == 2
    assert unmask("generate", "--colour", "red").code == 2


def test_check(unmask) -> None:
    done = unmask("check", "omni-diffusion", "--json")
    report = json.loads(done.out)
    assert (done.code, report["ok"]) == (1, False)
    assert {component["name"] for component in report["components"]} >= {"backbone", "vocoder", "cmvn"}
    assert "6 problem(s)" in done.err
    assert "run: unmask download omni-diffusion" in unmask("check", "omni-diffusion").out
    assert unmask("check", "nothing").code == 2


def test_convert(unmask, tmp_path: Path) -> None:
    import torch

    torch.save({"w": torch.ones(2)}, tmp_path / "net.pt")
    assert unmask("convert", tmp_path / "net.pt").code == 0
    assert (tmp_path / "net.safetensors").is_file()
    assert unmask("convert", tmp_path / "gone.pt").code == 2
    assert unmask("convert", tmp_path / "net.pt", tmp_path / "no" / "net.safetensors").code == 2


def test_download_offline(unmask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", offline)
    done = unmask("download", "omni-diffusion", "--to", tmp_path / "bundle")
    assert done.code == 1
    assert "cannot be reached" in done.err
    assert unmask("download", "nothing").code == 2


def test_serve_refuses_what_cannot_work(unmask) -> None:
    assert unmask("serve", "--model", "nothing").code == 2
    assert unmask("serve", "--log-level", "loud", *MODEL).code == 2
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = unmask("serve", "--port", taken.getsockname()[1], *MODEL)
    assert done.code == 1
    assert "cannot listen" in done.err


def test_serve_ends_when_the_model_cannot_be_loaded(unmask, engine, monkeypatch: pytest.MonkeyPatch) -> None:
    from unmask_engine.bundle import BundleError

    def fail(path: Path, device: str, policy: object, parallel: int) -> None:
        raise BundleError("a tensor is missing")

    monkeypatch.setattr(sys.modules["unmask_engine.engine"].Engine, "load", fail)
    done = unmask("serve", "--port", "0", *MODEL)
    assert done.code == 2
    assert done.err.endswith("unmask: a tensor is missing\n")
