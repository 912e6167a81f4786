"""Training samples as people bring them: one JSON object a line, in the format of the published fine-tuning data.

    {"messages": [{"role": "user", "content": "Convert the speech to text.\\n<|audio|>"},
                  {"role": "assistant", "content": "a red circle"}], "audios": ["recordings/1.wav"]}

`<|audio|>` and `<|image|>` stand for the files of `audios` and `images`, in order over the whole conversation. Lines
and files are read as they are asked for.
"""

import codecs
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask_engine.media import MediaLimits, read_audio, read_image
from unmask_engine.preset import AUDIO_SLOT, IMAGE_SLOT, Message
from unmask_engine.request import AudioPart, ImagePart, RequestError

MEDIA = {"audios": AUDIO_SLOT, "images": IMAGE_SLOT}
FIELDS = ("messages", "audios", "images", "id")
ROLES = ("system", "user", "assistant")
MAX_LINE = 1 << 24  # bytes: words and file names, never media
LIMITS = MediaLimits(max_bytes=200_000_000, max_pixels=100_000_000)


class DataError(ValueError):
    """What is wrong in which line, and what is allowed."""

    def __init__(self, file: Path, line: int, message: str) -> None:
        super().__init__(f"{file}:{line}: {message}")


@dataclass(frozen=True)
class JsonSample:
    """A conversation that ends with the answer to learn. The files of `audios` and `images` exist."""

    messages: tuple[Message, ...]
    audios: tuple[Path, ...]
    images: tuple[Path, ...]
    file: Path
    line: int

    def error(self, message: str) -> DataError:
        return DataError(self.file, self.line, message)

    def audio(self, i: int) -> AudioPart:
        try:
            return read_audio(self.audios[i].read_bytes(), LIMITS)
        except (OSError, RequestError) as error:
            raise self.error(f"{self.audios[i]}: {error}") from None

    def image(self, i: int) -> ImagePart:
        try:
            return read_image(self.images[i].read_bytes(), LIMITS)
        except (OSError, RequestError) as error:
            raise self.error(f"{self.images[i]}: {error}") from None


def read_samples(file: Path, root: Path | None = None) -> Iterator[JsonSample]:
    """The samples of a file; raises DataError at the first bad line. Relative paths start at `root`, or at the file."""
    for found in examine(file, root):
        if isinstance(found, DataError):
            raise found
        yield found


def examine(file: Path, root: Path | None = None) -> Iterator[JsonSample | DataError]:
    """A sample or what is wrong with it, for each line that is not blank."""
    root = root or file.parent
    for number, line in enumerate(_lines(file), 1):
        if len(line) > MAX_LINE:
            yield DataError(
                file, number, f"a line of more than {MAX_LINE >> 20} MiB; a sample is one object on one line"
            )
        elif line.strip():
            try:
                yield _sample(line, file, number, root)
            except ValueError as error:
                yield DataError(file, number, str(error))


def _lines(file: Path) -> Iterator[bytes]:
    """Of one that is too long only the beginning, so that no file fills the memory."""
    with file.open("rb") as opened:
        is_first = True
        while line := opened.readline(MAX_LINE + 1):
            rest = line
            while len(rest) > MAX_LINE and not rest.endswith(b"\n"):
                rest = opened.readline(MAX_LINE + 1)
            yield line.removeprefix(codecs.BOM_UTF8) if is_first else line
            is_first = False


def _sample(line: bytes, file: Path, number: int, root: Path) -> JsonSample:
    try:
        body = json.loads(line.rstrip(b"\r\n").decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte {error.start + 1} is 0x{line[error.start]:02x}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}; a sample is one object on one line") from None
    except ValueError:  # Python's own limit
        raise ValueError("not a sample: a number of thousands of digits") from None
    except RecursionError:
        raise ValueError("not a sample: lists or objects within one another without end") from None
    if not isinstance(body, dict):
        raise ValueError(f"a sample is a JSON object, not {_kind(body)}")
    if unknown := sorted(set(body) - set(FIELDS)):
        raise ValueError(f"unknown field {', '.join(unknown)}; there are: {', '.join(FIELDS)}")
    messages = _messages(body.get("messages"))
    paths = {name: _paths(body, name, messages, root) for name in MEDIA}
    return JsonSample(messages, paths["audios"], paths["images"], file, number)


def _messages(raw: Any) -> tuple[Message, ...]:
    if not isinstance(raw, list) or not raw:
        raise ValueError("\"messages\" is a list of at least a user's and an assistant's turn")
    messages = tuple(_message(item, i) for i, item in enumerate(raw))
    roles = [message.role for message in messages]
    turns = roles[1:] if roles[0] == "system" else roles
    if turns != ["user", "assistant"] * (len(turns) // 2) or not turns:
        raise ValueError(
            f"roles are {', '.join(roles)}; allowed: system or not, then user and assistant in turn, assistant last"
        )
    if roles[0] == "system" and any(slot in messages[0].content for slot in MEDIA.values()):
        raise ValueError("messages[0]: a system message holds text only")
    return messages


def _message(item: Any, i: int) -> Message:
    where = f"messages[{i}]"
    if not isinstance(item, dict) or set(item) != {"role", "content"}:
        raise ValueError(f'{where} is an object with "role" and "content" and nothing else')
    if item["role"] not in ROLES:
        raise ValueError(f"{where}: role {item['role']!r}; allowed: {', '.join(ROLES)}")
    if not isinstance(item["content"], str) or not item["content"].strip():
        raise ValueError(f"{where}: content is a text that is not empty")
    try:
        item["content"].encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: character {error.start + 1} is half of a surrogate pair, no text") from None
    return Message(item["role"], item["content"])


def _paths(body: Mapping[str, Any], name: str, messages: tuple[Message, ...], root: Path) -> tuple[Path, ...]:
    raw = body.get(name, [])
    if not isinstance(raw, list) or not all(isinstance(path, str) and path for path in raw):
        raise ValueError(f'"{name}" is a list of paths')
    wanted = sum(message.content.count(MEDIA[name]) for message in messages)
    if wanted != len(raw):
        raise ValueError(f'{wanted} times {MEDIA[name]} in the messages, but {len(raw)} paths in "{name}"')
    paths = tuple(root / path for path in raw)
    if missing := [str(path) for path in paths if not _is_file(path)]:
        raise ValueError(f"no such file: {', '.join(missing)}; relative paths start at {root}")
    return paths


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, UnicodeEncodeError):  # a name that no file can have
        return False


def _kind(value: Any) -> str:
    return {list: "a list", str: "a text", type(None): "null"}.get(type(value), "a number")
