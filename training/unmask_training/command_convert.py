"""`unmask train convert-data`: a CSV, a folder, or samples of the small world, as JSONL."""

import argparse
from pathlib import Path

from unmask_engine.bundle import load_bundle
from unmask_training.convert_data import columns, rows_of_csv, rows_of_folder, write_jsonl

EPILOG = "Columns: text, audio, image for what goes in; answer, answer_audio, answer_image for what comes out."


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="unmask train convert-data", epilog=EPILOG,
        description="Append samples to a JSONL file, with the prompts of a bundle's presets.",
    )  # fmt: skip
    parser.add_argument("out", type=Path, help="JSONL file")
    parser.add_argument("--task", required=True, help="a task of the bundle: asr, tts, t2i, ...")
    parser.add_argument("--bundle", default="unmask-mini", help="whose prompts are used: name or directory")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--csv", type=Path, help="table with a header of columns")
    source.add_argument("--folder", type=Path, help="files called NAME.COLUMN.EXTENSION: 17.audio.wav, 17.answer.txt")
    source.add_argument("--world", type=int, metavar="N", help="N samples of the small world; media go beside OUT")
    parser.add_argument("--seed", type=int, default=0, help="of --world")
    options = parser.parse_args(arguments)
    presets = {preset.task: preset for preset in load_bundle(options.bundle).presets}
    if options.task not in presets:
        parser.error(f"--task {options.task}: the bundle has {', '.join(presets)}")
    preset = presets[options.task]
    try:
        if options.csv is not None:
            rows = rows_of_csv(options.csv)
        elif options.folder is not None:
            rows = rows_of_folder(options.folder)
        else:
            from unmask_training.world_rows import world_rows

            media = options.out.with_name(f"{options.out.stem}-media")
            rows = world_rows(options.task, options.world, options.seed, media)
        count = write_jsonl(options.out, preset, rows)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if not count:
        parser.error(f"no rows; task {options.task} has the columns {', '.join(columns(preset))}")
    print(f"{count} samples of {options.task} in {options.out}")
