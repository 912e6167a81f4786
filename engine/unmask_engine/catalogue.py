"""Fetching a bundle's published components from Hugging Face: chosen files, pinned revisions, resumable."""

import json
from pathlib import Path

from unmask_engine.bundle import BUILT_IN, BundleError, Source, bundles_home, load_bundle


class DownloadError(Exception):
    """The files could not be fetched now; the message says why. Trying again continues where it stopped."""


def download_bundle(name: str, to: Path | None = None, revision: str | None = None) -> Path:
    """Puts each published component into `<to>/<component>/` and returns `to`.

    The first download pins: the commits it found are written into the new `bundle.json`, and a repeated call stays
    with them. `revision` overrides that of the backbone's repository.
    """
    folder = (to or bundles_home() / name).absolute()
    shipped = BUILT_IN / name / "bundle.json"
    if not shipped.is_file():
        published = ", ".join(sorted(_published())) or "none"
        raise BundleError(f"no bundle {name!r} has published weights; there are: {published}")
    bundle = load_bundle(folder if (folder / "bundle.json").is_file() else shipped.parent)
    sources = {component: body.source for component, body in bundle.components.items() if body.source.repo}
    if not sources:
        raise BundleError(f"{name} ships with Unmask, there is nothing to download")
    backbone = bundle.component("backbone").source.repo
    pins: dict[str, str] = {}
    for source in sources.values():
        assert source.repo is not None
        wanted = revision if revision is not None and source.repo == backbone else source.revision
        if source.repo not in pins:
            pins[source.repo] = _commit(source.repo, wanted)
    folder.mkdir(parents=True, exist_ok=True)
    _write_pinned(bundle.path / "bundle.json", folder / "bundle.json", pins)
    for component, source in sources.items():
        _fetch(source, pins, folder / component)
    return folder


def _published() -> set[str]:
    folders = (file.parent for file in BUILT_IN.glob("*/bundle.json"))
    bundles = [load_bundle(folder) for folder in folders]
    return {bundle.name for bundle in bundles if any(body.source.repo for body in bundle.components.values())}


def _commit(repo: str, revision: str | None) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        sha = HfApi().model_info(repo, revision=revision).sha
    except GatedRepoError:
        raise DownloadError(f"{repo} asks for consent on its page; then set HF_TOKEN and try again") from None
    except RepositoryNotFoundError:
        raise DownloadError(f"Hugging Face has no repository {repo} (or it is private: set HF_TOKEN)") from None
    except RevisionNotFoundError:
        raise BundleError(f"{repo} has no revision {revision!r}") from None
    except Exception as error:  # the network's own errors differ with the version of the library
        raise DownloadError(f"{repo}: Hugging Face cannot be reached ({type(error).__name__})") from error
    if sha is None:
        raise DownloadError(f"{repo}: Hugging Face names no commit for {revision or 'the main branch'}")
    return sha


def _fetch(source: Source, pins: dict[str, str], folder: Path) -> None:
    from huggingface_hub import snapshot_download

    assert source.repo is not None
    try:
        snapshot_download(
            source.repo, revision=pins[source.repo], allow_patterns=list(source.fetch) or None, local_dir=folder
        )
    except Exception as error:  # as above
        message = f"{source.repo}: the download broke off ({type(error).__name__}); the same command continues it"
        raise DownloadError(message) from error


def _write_pinned(source: Path, target: Path, pins: dict[str, str]) -> None:
    data = json.loads(source.read_text(encoding="utf-8"))
    for component in data["components"].values():
        repo = component["source"].get("repo")
        if repo is not None:
            component["source"]["revision"] = pins[repo]
    target.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
