"""`unmask train finetune`: a bundle and a JSONL file -> a new bundle. Numbers and their sources: docs/training.md.

Samples are tokenised once into `OUT/training/samples`; `OUT/training/step-N` holds what a killed run goes on from, so
that it loses at most `--save-every` steps. The finished bundle is `OUT` itself.
"""

import argparse
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch

from unmask_engine.bundle import Bundle, BundleError, load_bundle
from unmask_engine.components import load_component
from unmask_engine.models.omni import OmniModel
from unmask_training.bundle_writer import BundleWriter, Written
from unmask_training.finetune_batches import MAX_PADS, Batches
from unmask_training.finetune_devices import Devices, find_devices
from unmask_training.finetune_model import BACKBONE, Objective, add_lora, export, freeze_ears
from unmask_training.finetune_run import FineTuning, Run
from unmask_training.jsonl import read_samples
from unmask_training.progress import bar
from unmask_training.sample_store import SampleStore


def tokenise(bundle: Bundle, omni: OmniModel, data: Path, root: Path | None, folder: Path, how: FineTuning) -> Batches:
    """Write the samples that are not there yet; raises DataError for one that is too long or cannot be read."""
    stat = data.stat()
    origin = {
        "bundle": bundle.name, "data": str(data.resolve()), "bytes": stat.st_size, "changed": stat.st_mtime,
        "pin_speech": how.pin_speech, "tokens": how.tokens,
    }  # fmt: skip
    size = omni.model.audio_projection.pre_proj_layernorm.weight.shape[0]
    store = SampleStore(folder, size, origin)
    writer = BundleWriter(bundle, omni.speech_encoder, omni.lm_head.weight.shape[0], how.pin_speech)

    def written() -> Iterator[Written]:
        with bar("tokenising", stat.st_size) as show:
            for number, sample in enumerate(read_samples(data, root)):
                if number >= done:
                    made = writer.write(sample)
                    if len(made.ids) + MAX_PADS > how.tokens:
                        raise sample.error(
                            f"takes {len(made.ids)} tokens; at most {how.tokens - MAX_PADS} fit --tokens {how.tokens}"
                        )
                    yield made
                show(0, f"{number + 1} samples")

    if not store.is_complete:
        done = len(store)
        store.extend(written())
        store.complete()
    if not len(store):
        raise ValueError(f"{data} holds no samples")
    return Batches(store, how.tokens, writer.vocabulary, how.seed, how.drop)


def finetune(bundle: Bundle, data: Path, root: Path | None, out: Path, how: FineTuning, devices: Devices) -> None:
    """Train, or go on training, and write the new bundle into `out`."""
    folder = out / "training"
    omni = cast(OmniModel, load_component(bundle, BACKBONE, device=devices.device))
    if devices.rank:  # the first process tokenises, the others find it done
        devices.wait()
    batches = tokenise(bundle, omni, data, root, folder / "samples", how)
    if not devices.rank:
        devices.wait()
    torch.manual_seed(how.seed)
    # Weights that learn are kept in float32: in bfloat16 most steps of 1e-5 would round to nothing.
    omni.to(torch.bfloat16 if how.lora_rank and how.bf16 else torch.float32)
    if how.lora_rank:
        add_lora(omni, how.lora_rank)
    else:
        freeze_ears(omni)
    run = Run(Objective(omni, batches.vocabulary.mask), how, devices, folder)
    run.run(batches)
    state = run.weights()
    if not devices.rank:
        export(bundle, state, how.lora_rank, out)
    devices.wait()


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="unmask train finetune", description="Fine-tune a bundle on a JSONL file.")
    parser.add_argument("--bundle", default="unmask-mini", help="name or directory")
    parser.add_argument("--data", type=Path, required=True, help="JSONL; check it first: unmask train validate")
    parser.add_argument("--root", type=Path, help="where relative paths start; default: the folder of --data")
    parser.add_argument("--out", type=Path, required=True, help="directory of the new bundle")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    _add_number(parser, "--learning-rate", "learning_rate", "at its highest")
    _add_number(parser, "--tokens", "tokens", "of a packed sequence, and at most of a sample")
    _add_number(parser, "--accumulate", "accumulate", "sequences a step and process")
    _add_number(parser, "--drop", "drop", "share of samples whose user content is left out, for guidance")
    _add_number(parser, "--ema", "ema", "decay of averaged weights; 0: none")
    _add_number(parser, "--lora", "lora_rank", "rank of LoRA adapters, merged at the end; 0: all weights learn")
    _add_number(parser, "--save-every", "save_every", "steps; what a killed run can lose")
    _add_number(parser, "--seed", "seed", "")
    parser.add_argument("--float32", action="store_true", help="compute in float32 instead of bfloat16")
    parser.add_argument("--pin-speech", action="store_true", help="pads between a spoken answer's text and its speech")
    options = vars(parser.parse_args(arguments))
    bundle, data, root, out, device = (options.pop(name) for name in ("bundle", "data", "root", "out", "device"))
    how = FineTuning(bf16=not options.pop("float32"), **options)
    _check(parser, how, data)
    try:
        devices = find_devices(device, how.bf16)
        finetune(load_bundle(bundle), data, root, out, how, devices)
    except (BundleError, ValueError) as error:
        parser.exit(2, f"unmask train finetune: {error}\n")
    if not devices.rank:
        print(f"a new bundle lies in {out}: unmask serve --model {out}")


def _add_number(parser: argparse.ArgumentParser, option: str, field: str, what: str) -> None:
    default: Any = getattr(FineTuning, field)
    parser.add_argument(option, dest=field, type=type(default), default=default, help=f"{what} (default {default})")


def _check(parser: argparse.ArgumentParser, how: FineTuning, data: Path) -> None:
    if not data.is_file():
        parser.error(f"--data {data}: there is no such file")
    if min(how.steps, how.accumulate, how.save_every) < 1:
        parser.error("--steps, --accumulate and --save-every must be at least 1")
    if not (0 <= how.drop <= 1 and 0 <= how.ema < 1 and how.learning_rate > 0 and how.lora_rank >= 0):
        parser.error("--drop must be within 0 and 1, --ema below 1, --learning-rate above 0, --lora not negative")
    if how.lora_rank and find_spec("peft") is None:
        parser.error("--lora needs peft: pip install 'unmask[train]'")


if __name__ == "__main__":
    main(sys.argv[1:])
