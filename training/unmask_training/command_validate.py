"""`unmask train validate`: every line of a JSONL file that training could not use, and what the rest would teach."""

import argparse
import sys
from collections import Counter
from pathlib import Path

from unmask_engine.preset import AUDIO_SLOT, IMAGE_SLOT
from unmask_training.jsonl import DataError, JsonSample, examine

SHOWN = 50  # problems that are printed; the rest is counted


def kind(sample: JsonSample) -> str:
    """What goes in and what comes out: `text + image -> text + audio`."""

    def modalities(roles: tuple[str, ...]) -> str:
        content = "".join(message.content for message in sample.messages if message.role in roles)
        found = [name for name, slot in (("audio", AUDIO_SLOT), ("image", IMAGE_SLOT)) if slot in content]
        has_text = content.replace(AUDIO_SLOT, "").replace(IMAGE_SLOT, "").strip()
        return " + ".join(["text"] * bool(has_text) + found)

    return f"{modalities(('user',))} -> {modalities(('assistant',))}"


def problem_of(sample: JsonSample) -> DataError | None:
    """What keeps its files from being decoded."""
    try:
        for i in range(len(sample.audios)):
            sample.audio(i)
        for i in range(len(sample.images)):
            sample.image(i)
    except DataError as error:
        return error
    return None


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="unmask train validate", description="Check a JSONL file of samples.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--root", type=Path, help="where relative paths start; default: the file's folder")
    parser.add_argument("--decode", action="store_true", help="also decode every recording and picture")
    options = parser.parse_args(arguments)
    if not options.file.is_file():
        parser.error(f"{options.file}: there is no such file")
    kinds: Counter[str] = Counter()
    problems = 0
    for found in examine(options.file, options.root):
        error = found if isinstance(found, DataError) else problem_of(found) if options.decode else None
        if error is not None:
            problems += 1
            if problems <= SHOWN:
                print(error, file=sys.stderr)
        elif isinstance(found, JsonSample):
            kinds[kind(found)] += 1
    for name, count in kinds.most_common():
        print(f"{count:8}  {name}")
    if problems > SHOWN:
        print(f"... and {problems - SHOWN} more", file=sys.stderr)
    if problems or not kinds:
        sys.exit(f"unmask train validate: {problems} of {problems + kinds.total()} samples cannot be used")
    print(f"{kinds.total()} samples, all usable")
