"""Starts a work folder from a finished bundle, so that the recipe can train its backbone on instead of from nothing.

    python -m unmask_training.warm_start BUNDLE WORK

Image codec, speech codec, vocoder and ears count as done; `backbone` starts from the bundle's weights. The quantiser's
averages and the flow's estimator do not ship, so the speech codec can be used as it is but not trained further.
"""

import argparse
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from unmask_engine.bundle import find_bundle
from unmask_training.train_speech_codec import Codec

_EARS = "model.audio_model.model."


def warm_start(bundle: Path, work: Path) -> None:
    """Write what the parts of the recipe would have written."""
    work.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "am.mvn"):
        shutil.copyfile(bundle / name, work / name)

    def stored(name: str) -> dict[str, Tensor]:
        weights = load_file(str(bundle / f"{name}.safetensors"))
        return {n: t.float() if t.is_floating_point() else t for n, t in weights.items()}

    def save(weights: Mapping[str, Tensor], name: str) -> None:
        torch.save(dict(weights), work / name)

    backbone = stored("backbone")
    save(backbone, "start.pt")
    save({n.removeprefix(_EARS): t for n, t in backbone.items() if n.startswith(_EARS)}, "ears.pt")
    save(stored("image_tokenizer"), "image_codec.pt")
    save(stored("vocoder"), "vocoder.pt")
    codec = Codec()
    codec.tokenizer.load_state_dict(stored("speech_tokenizer"))
    codec.flow.load_state_dict(stored("speech_flow"), strict=False)
    codec.codebook.copy_(codec.tokenizer.codebook.weight.detach())
    save(codec.state_dict(), "speech_codec.pt")
    speech_out = {f"flow.{name}": t for name, t in codec.flow.state_dict().items()}
    save(speech_out | {f"vocoder.{name}": t for name, t in stored("vocoder").items()}, "speech_out.pt")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Start a work folder of the recipe from a bundle.")
    parser.add_argument("bundle", help="name or directory")
    parser.add_argument("work", type=Path)
    options = parser.parse_args()
    warm_start(find_bundle(options.bundle), options.work)
