"""A bundle: a directory whose `bundle.json` names everything a model is made of. Descriptions only, no torch here.

docs/bundles.md explains the file. Weights are read by `checkpoint.py`, modules are built by `components.py`.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from unmask_engine.preset import Preset

FORMAT = 1
BUILT_IN = Path(__file__).parent / "bundles"

ComponentName = Literal[
    "backbone", "image_tokenizer", "speech_flow", "vocoder", "speech_tokenizer", "text_tokenizer", "cmvn"
]


class BundleError(Exception):
    """A bundle that cannot be used: what is wrong and how to mend it, safe to show."""


@dataclass(frozen=True)
class Source:
    """Where a component's files lie: `files` below the bundle's directory, and the published place they come from."""

    files: tuple[str, ...]
    repo: str | None = None  # Hugging Face repository id
    revision: str | None = None
    fetch: tuple[str, ...] = ()  # patterns of the files to download from `repo`
    convert: Mapping[str, str] | None = None  # published file -> the file of `files` that `unmask convert` makes of it


@dataclass(frozen=True)
class Component:
    config: Mapping[str, Any]  # the fields of the module's config dataclass; the rest keeps its default
    source: Source
    ignored_keys: tuple[str, ...] = ()  # patterns of stored tensors that inference has no use for
    optional: bool = False  # the engine runs without it
    dtype: Literal["float32", "bfloat16", "float16"] | None = None  # what it computes in; None: as it is stored

    def __post_init__(self) -> None:
        if self.dtype not in (None, "float32", "bfloat16", "float16"):
            raise ValueError(f"dtype {self.dtype!r}: float32, bfloat16, float16, or left out")


@dataclass(frozen=True)
class CodeTokens:
    """The vocabulary's tokens for one codec: `<|audio_0|>` ... in order."""

    first: str
    count: int


@dataclass(frozen=True)
class Tokens:
    """Special tokens by their text; ids come from the text tokenizer alone."""

    special: Mapping[str, str]  # role -> token, e.g. "mask" -> "<|mask|>"
    audio: CodeTokens
    image: CodeTokens


@dataclass(frozen=True)
class Media:
    image_input_size: int  # pixels a side of what the image tokenizer encodes
    image_output_size: int  # pixels a side of what it draws
    audio_input_rate: int  # Hz
    audio_output_rate: int  # Hz
    audio_token_rate: float  # speech tokens a second
    # Seconds of a row of the speech encoder, whose CTC class i + 1 is text token i, emitted where that is said.
    ctc_row_s: float | None = None  # None: its CTC head does not tell when words are said
    ctc_delay_s: float = 0.0  # how long after a token is said its class comes: measured, part of how the ears learnt


@dataclass(frozen=True)
class Bundle:
    path: Path
    name: str
    description: str
    components: Mapping[ComponentName, Component]
    tokens: Tokens
    media: Media
    presets: tuple[Preset, ...]

    def component(self, name: ComponentName) -> Component:
        if name not in self.components:
            raise BundleError(f"bundle {self.name}: bundle.json describes no component {name!r}")
        return self.components[name]

    def files(self, name: ComponentName) -> tuple[Path, ...]:
        """The component's files; raises BundleError for those that are not there."""
        component = self.component(name)
        if missing := [file for file in component.source.files if not (self.path / file).is_file()]:
            message = f"{name} lacks {', '.join(missing)} in {self.path}; {self._how_to_get(component)}"
            raise BundleError(f"bundle {self.name}: {message}")
        return tuple(self.path / file for file in component.source.files)

    def has(self, name: ComponentName) -> bool:
        """Whether the component is described and all its files are there."""
        return name in self.components and all(
            (self.path / file).is_file() for file in self.components[name].source.files
        )

    def _how_to_get(self, component: Component) -> str:
        if component.source.repo is None:
            return "the bundle is incomplete"
        step = "convert" if self._fetched(component) else "download"
        return f"run: unmask {step} {self.path if step == 'convert' else self.name}"

    def _fetched(self, component: Component) -> bool:
        published = component.source.convert or {}
        return bool(published) and all((self.path / file).is_file() for file in published)


def bundles_home() -> Path:
    """Where downloaded bundles live: `$UNMASK_HOME/bundles`, by default in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(os.environ.get("UNMASK_HOME", cache / "unmask")) / "bundles"


def bundle_names() -> tuple[str, ...]:
    """The names `find_bundle` knows: shipped ones and downloaded ones."""
    folders = [folder for root in (BUILT_IN, bundles_home()) if root.is_dir() for folder in root.iterdir()]
    return tuple(sorted({folder.name for folder in folders if (folder / "bundle.json").is_file()}))


def find_bundle(path_or_name: str | Path) -> Path:
    """The directory of a bundle given by its path, or by its name: the downloaded one before the shipped one."""
    for folder in (Path(path_or_name), bundles_home() / path_or_name, BUILT_IN / path_or_name):
        if (folder / "bundle.json").is_file():
            return folder.resolve()
    names = ", ".join(bundle_names()) or "none"
    raise BundleError(f"no bundle {str(path_or_name)!r}: give a directory with a bundle.json, or one of: {names}")


def load_bundle(path_or_name: str | Path) -> Bundle:
    """Read and validate a bundle's description; weights are not touched."""
    folder = find_bundle(path_or_name)
    file = folder / "bundle.json"
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        if data.get("format") != FORMAT:
            raise BundleError(f"{file}: format {data.get('format')!r}; this version of Unmask reads format {FORMAT}")
        return _bundle(folder, data)
    except KeyError as error:
        raise BundleError(f"{file}: the field {error} is missing") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise BundleError(f"{file}: {error}") from error


def _bundle(folder: Path, data: Mapping[str, Any]) -> Bundle:
    return Bundle(
        path=folder,
        name=data["name"],
        description=data["description"],
        components={_component_name(name): _component(body) for name, body in data["components"].items()},
        tokens=Tokens(
            special=data["tokens"]["special"],
            audio=CodeTokens(**data["tokens"]["audio"]),
            image=CodeTokens(**data["tokens"]["image"]),
        ),
        media=Media(**data["media"]),
        presets=tuple(Preset.from_json(preset) for preset in data["presets"]),
    )


def _component_name(name: str) -> ComponentName:
    for known in get_args(ComponentName):
        if name == known:
            return known  # type: ignore[no-any-return]
    raise ValueError(f"unknown component {name!r}; there are: {', '.join(get_args(ComponentName))}")


def _component(body: Mapping[str, Any]) -> Component:
    fields = dict(body)
    source = dict(fields.pop("source"))
    source["files"] = tuple(source["files"])
    source["fetch"] = tuple(source.get("fetch", ()))
    for file in (*source["files"], *(source.get("convert") or {}), *(source.get("convert") or {}).values()):
        if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
            raise ValueError(f"{file!r} lies outside the bundle's directory")
    return Component(
        config=fields.pop("config", {}),
        source=Source(**source),
        ignored_keys=tuple(fields.pop("ignored_keys", ())),
        **fields,
    )
