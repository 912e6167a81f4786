"""`unmask check`, and the way from files to a model that answers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from unmask_engine.bundle import BundleError, load_bundle
from unmask_engine.check import check_bundle
from unmask_engine.components import load_component
from unmask_engine.engine import Engine
from unmask_engine.request import AudioPart, GenerationRequest, ImagePart, TextPart

IMAGE = ImagePart(np.zeros((40, 50, 3), np.uint8))
SOUND = AudioPart(np.sin(np.arange(8000) / 9, dtype=np.float32) / 4, 16000)
WORDS = TextPart("a red circle")


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "tiny"))


def problems(folder: Path) -> dict[str, tuple[str, ...]]:
    return {c.name: c.problems for c in check_bundle(folder).components if c.problems}


def change(folder: Path, *path: str, value: object) -> None:
    file = folder / "bundle.json"
    data = json.loads(file.read_text())
    inner = data
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    file.write_text(json.dumps(data))


def test_a_good_bundle_has_no_problems(tiny_bundle: Path) -> None:
    report = check_bundle(tiny_bundle)
    assert report.ok
    assert {component.name for component in report.components} >= {"backbone", "vocoder", "text_tokenizer", "cmvn"}


def test_wrong_weights_are_named(bundle: Path) -> None:
    weights = load_file(bundle / "vocoder.safetensors")
    weights["surplus"] = weights.pop("conv_pre.bias")
    save_file(weights, bundle / "vocoder.safetensors")
    assert problems(bundle) == {"vocoder": ("conv_pre.bias is missing", "surplus is not part of the model")}
    with pytest.raises(BundleError, match=r"conv_pre\.bias is missing"):
        load_component(load_bundle(bundle), "vocoder")


def test_every_broken_component_is_reported(bundle: Path) -> None:
    (bundle / "backbone.safetensors").unlink()
    (bundle / "speech_flow.safetensors").write_bytes(b"garbage")
    (bundle / "am.mvn").write_text("nothing")
    (bundle / "tokenizer.json").write_text("{}")
    change(bundle, "components", "vocoder", "config", value={"colour": 1})
    found = problems(bundle)
    assert set(found) == {"backbone", "speech_flow", "cmvn", "text_tokenizer", "vocoder"}
    assert "backbone lacks backbone.safetensors" in found["backbone"][0]
    assert "no field colour" in found["vocoder"][0]


def test_tokens_are_verified_by_name(bundle: Path) -> None:
    change(bundle, "tokens", "special", "mask", value="<|no_such|>")
    change(bundle, "tokens", "image", value={"first": "<|image_0|>", "count": 20})
    lacks, codes = problems(bundle)["text_tokenizer"]
    assert lacks == "the vocabulary lacks <|no_such|>, the bundle's mask token"
    assert codes == "4 of 20 codes are not where they belong, <|image_16|> first"


def test_optional_components_may_be_absent(bundle: Path) -> None:
    (bundle / "vocoder.safetensors").unlink()
    assert set(problems(bundle)) == {"vocoder"}
    change(bundle, "components", "vocoder", "optional", value=True)
    assert check_bundle(bundle).ok


def test_components_load_in_the_type_asked_for(tiny_bundle: Path) -> None:
    module = load_component(load_bundle(tiny_bundle), "backbone", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize(
    ("task", "parts"),
    [
        ("t2i", (WORDS,)),
        ("s2i", (SOUND,)),
        ("svqa", (SOUND, IMAGE)),
        ("sqa", (SOUND,)),
        ("vqa", (WORDS, IMAGE)),
        ("caption", (IMAGE,)),
        ("tts", (WORDS,)),
        ("asr", (SOUND,)),
    ],
)
def test_every_task_runs_from_files_to_media(tiny_bundle: Path, task: str, parts) -> None:
    engine = Engine.load(tiny_bundle)
    (done,) = engine.generate([GenerationRequest(parts, (), task)])
    preset = next(preset for preset in engine.bundle.presets if preset.task == task)
    assert (done.text is not None, done.audio is not None, done.image is not None) == tuple(
        modality in preset.outputs for modality in ("text", "audio", "image")
    )
    if done.image is not None:
        assert done.image.pixels.shape == (32, 32, 3)
    if done.audio is not None:
        assert np.isfinite(done.audio.samples).all()
