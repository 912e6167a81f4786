import json
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from unmask_engine.bundle import BundleError, load_bundle
from unmask_engine.catalogue import DownloadError, download_bundle


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """A hub that knows every repository at commit `c0ffee` and fetches nothing; the calls it got."""
    calls: list[SimpleNamespace] = []

    def info(_: object, repo: str, revision: str | None = None) -> SimpleNamespace:
        return SimpleNamespace(sha="c0ffee" if revision in ("main", "c0ffee") else f"sha of {revision}")

    def fetch(repo: str, **options: object) -> None:
        calls.append(SimpleNamespace(repo=repo, **options))

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    return calls


def test_fetches_what_each_component_names(hub: list[SimpleNamespace], tmp_path: Path) -> None:
    assert download_bundle("omni-diffusion", tmp_path) == tmp_path
    described = load_bundle("omni-diffusion").components
    assert [call.local_dir.name for call in hub] == list(described)
    for call in hub:
        source = described[call.local_dir.name].source
        assert (call.repo, call.allow_patterns) == (source.repo, list(source.fetch))
        assert call.revision == "c0ffee"
    assert all(component.source.revision == "c0ffee" for component in load_bundle(tmp_path).components.values())


def test_a_second_download_stays_with_the_first_ones_commits(
    hub: list[SimpleNamespace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    download_bundle("omni-diffusion", tmp_path)
    asked = []
    monkeypatch.setattr(
        huggingface_hub.HfApi,
        "model_info",
        lambda _, repo, revision=None: asked.append(revision) or SimpleNamespace(sha=revision),
    )
    download_bundle("omni-diffusion", tmp_path)
    assert set(asked) == {"c0ffee"}


def test_the_backbones_revision_can_be_chosen(hub: list[SimpleNamespace], tmp_path: Path) -> None:
    download_bundle("omni-diffusion", tmp_path, revision="v2")
    revisions = {call.local_dir.name: call.revision for call in hub}
    assert revisions["backbone"] == revisions["text_tokenizer"] == "sha of v2"
    assert revisions["vocoder"] == "c0ffee"


def test_names_without_published_weights(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="there are: omni-diffusion"):
        download_bundle("nothing", tmp_path)


def test_offline_is_said_clearly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("a long story about sockets")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", offline)
    with pytest.raises(DownloadError, match="Hugging Face cannot be reached"):
        download_bundle("omni-diffusion", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_broken_download_can_be_continued(
    hub: list[SimpleNamespace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError("connection reset")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", broken)
    with pytest.raises(DownloadError, match="the same command continues it"):
        download_bundle("omni-diffusion", tmp_path)
    assert json.loads((tmp_path / "bundle.json").read_text())["name"] == "omni-diffusion"
