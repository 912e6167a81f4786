"""`unmask train stage`: what a stage of the recipe has learnt so far, as a bundle, to compare the stages.

The averaged weights of `WORK/STAGE/checkpoint.pt` become the backbone; everything else is what the work folder holds.
"""

import argparse
import tomllib
from pathlib import Path

from unmask_engine.models.omni import OmniModel
from unmask_training.devices import stored
from unmask_training.recipe import CONFIG, Config, learner, untrained, write_bundle


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="unmask train stage", description="Make a bundle of one stage's checkpoint.")
    parser.add_argument("stage", help="stage1, stage2, ...: a folder of WORK with a checkpoint.pt")
    parser.add_argument("--work", type=Path, default=Path("runs/unmask-mini"), help="folder of `unmask train mini`")
    parser.add_argument("--out", type=Path, help="folder of the bundle; default: WORK/bundle-STAGE")
    parser.add_argument("--config", type=Path, default=CONFIG, help="TOML of the run; default: the shipped mini.toml")
    options = parser.parse_args(arguments)
    for file in (options.config, options.work / options.stage / "checkpoint.pt"):
        if not file.is_file():
            parser.error(f"{file}: there is no such file")
    config = tomllib.loads(options.config.read_text(encoding="utf-8"))
    omni = of_stage(options.work, config, options.stage)
    print(write_bundle(options.work, config, omni, options.out or options.work / f"bundle-{options.stage}"))


def of_stage(work: Path, config: Config, stage: str) -> OmniModel:
    """The model with the averaged weights of a stage's checkpoint."""
    omni = untrained(work, config)
    model = learner(work, omni)
    model.load_averaged(stored(work / stage / "checkpoint.pt"))
    model.bits.fold()
    return omni
