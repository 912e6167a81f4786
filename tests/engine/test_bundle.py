import json
from pathlib import Path

import pytest

from unmask_engine.bundle import Bundle, BundleError, bundle_names, find_bundle, load_bundle
from unmask_engine.codecs.image_tokenizer import ImageTokenizerConfig
from unmask_engine.components import build_component, config_from_json
from unmask_engine.omni_presets import OMNI_PRESETS

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture(scope="module")
def omni() -> Bundle:
    return load_bundle("omni-diffusion")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path))
    return tmp_path / "bundles"


@pytest.mark.parametrize(
    ("component", "keys"),
    [
        ("backbone", "dream_7b_keys.json"),
        ("image_tokenizer", "magvitv2_keys.json"),
        ("speech_flow", "flow_keys.json"),
        ("vocoder", "hift_keys.json"),
        ("speech_tokenizer", "whispervq_keys.json"),
    ],
)
def test_the_published_bundle_describes_the_published_tensors(omni: Bundle, component, keys) -> None:
    listed = json.loads((GOLDEN / keys).read_text())
    golden = {name: tuple(shape) for name, shape in listed.get("shapes", listed).items()}
    for name in omni.component(component).ignored_keys:
        del golden[name]
    module = build_component(omni, component)
    assert {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()} == golden
    assert all(tensor.is_meta for tensor in module.state_dict().values())


def test_the_published_bundle_carries_the_published_presets(omni: Bundle) -> None:
    assert omni.presets == OMNI_PRESETS


def test_a_bundle_that_was_not_downloaded_says_how_to_get_it(omni: Bundle) -> None:
    with pytest.raises(BundleError, match="run: unmask download omni-diffusion"):
        omni.files("backbone")
    assert not omni.has("vocoder")


def test_files_that_were_fetched_but_not_converted_say_so(home: Path, omni: Bundle) -> None:
    folder = home / "omni-diffusion"
    (folder / "vocoder").mkdir(parents=True)
    (folder / "bundle.json").write_text((omni.path / "bundle.json").read_text())
    (folder / "vocoder" / "hift.pt").touch()
    with pytest.raises(BundleError, match=f"run: unmask convert {folder}"):
        load_bundle("omni-diffusion").files("vocoder")


def test_a_downloaded_bundle_comes_before_the_shipped_one(home: Path, omni: Bundle) -> None:
    assert find_bundle("omni-diffusion") == omni.path
    folder = home / "omni-diffusion"
    folder.mkdir(parents=True)
    (folder / "bundle.json").write_text((omni.path / "bundle.json").read_text())
    assert find_bundle("omni-diffusion") == folder


def test_an_unknown_name_lists_the_known_ones() -> None:
    assert "omni-diffusion" in bundle_names()
    with pytest.raises(BundleError, match=r"no bundle 'nothing'.*omni-diffusion"):
        find_bundle("nothing")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "reads format 1"),
        ({"components": {"ears": {"source": {"files": []}}}}, "unknown component 'ears'"),
        ({"components": {"vocoder": {"source": {"files": ["../secret"]}}}}, "outside the bundle's directory"),
        ({"components": {"vocoder": {"source": {"files": ["/secret"]}}}}, "outside the bundle's directory"),
        ({"components": {"vocoder": {"source": {"files": []}, "colour": 1}}}, "colour"),
        ({"media": {}}, "image_input_size"),
        ({"presets": [{"task": "x"}]}, "missing"),
    ],
)
def test_a_wrong_description_is_an_error_that_names_the_file(omni: Bundle, tmp_path: Path, change, message) -> None:
    data = json.loads((omni.path / "bundle.json").read_text())
    (tmp_path / "bundle.json").write_text(json.dumps(data | change))
    with pytest.raises(BundleError, match=message) as error:
        load_bundle(tmp_path)
    assert "bundle.json" in str(error.value)


def test_a_missing_field_is_named(omni: Bundle, tmp_path: Path) -> None:
    data = json.loads((omni.path / "bundle.json").read_text())
    del data["tokens"]
    (tmp_path / "bundle.json").write_text(json.dumps(data))
    with pytest.raises(BundleError, match="'tokens' is missing"):
        load_bundle(tmp_path)


def test_what_is_not_json(tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text("{")
    with pytest.raises(BundleError, match=r"bundle\.json"):
        load_bundle(tmp_path)


def test_configs_come_from_json() -> None:
    config = config_from_json(ImageTokenizerConfig, {"channels": 32, "multipliers": [1, 2]})
    assert config == ImageTokenizerConfig(channels=32, multipliers=(1, 2))
    with pytest.raises(ValueError, match="ImageTokenizerConfig has no field colour"):
        config_from_json(ImageTokenizerConfig, {"colour": 1})
