"""`unmask train stage`: what a stage of the recipe has learnt so far, as a bundle, to compare the stages.

The averaged weights of `WORK/STAGE/checkpoint.pt` become the backbone; everything else is what the work folder holds.
"""

import argparse
import tomllib
from pathlib import Path

from unmask_training.recipe import CONFIG, of_stage, write_bundle


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="unmask train stage", description="Make a bundle of one stage's checkpoint.")
    parser.add_argument("stage", help="stage1, stage2, ...: a folder of WORK with a checkpoint.pt")
    parser.add_argument("--work", type=Path, default=Path("runs/unmask-mini"), help="folder of `unmask train mini`")
    parser.add_argument("--minute", help="a copy that the stage's keep_every made; default: its last checkpoint")
    parser.add_argument("--out", type=Path, help="folder of the bundle; default: WORK/bundle-STAGE[-MINUTE]")
    parser.add_argument("--config", type=Path, default=CONFIG, help="TOML of the run; default: the shipped mini.toml")
    options = parser.parse_args(arguments)
    name = f"minute-{options.minute}.pt" if options.minute else "checkpoint.pt"
    for file in (options.config, options.work / options.stage / name):
        if not file.is_file():
            parser.error(f"{file}: there is no such file")
    config = tomllib.loads(options.config.read_text(encoding="utf-8"))
    if options.stage not in [stage["name"] for stage in config["stage"]]:
        parser.error(f"{options.config} has no stage {options.stage}")
    omni, minutes = of_stage(options.work, config, options.stage, name)
    of = f"{options.stage}-{options.minute}" if options.minute else options.stage
    print(write_bundle(options.work, config, omni, options.out or options.work / f"bundle-{of}", minutes))
