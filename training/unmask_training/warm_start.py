"""Starts a work folder from a finished bundle, so that the recipe can train its backbone on instead of from nothing.

    python -m unmask_training.warm_start BUNDLE WORK

Image codec, speech codec, vocoder and ears count as done; `backbone` starts from the bundle's weights. The quantiser's
averages and the flow's estimator do not ship, so the speech codec can be used as it is but not trained further. A
bundle whose image codes have another number of bits only gives the image codec a start, and its codes are learnt anew.

Where WORK already has a tokenizer.json that is not the bundle's, its tokens get the vectors of the bundle's: a token
that the bundle spells in pieces gets their mean. The ears are then trained on, and what they heard is fitted anew.
"""

import argparse
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from unmask_engine.bundle import find_bundle
from unmask_training import train_image_codec
from unmask_training.partial import save_weights, whole
from unmask_training.seen import RECORD, START_RECORD
from unmask_training.train_speech_codec import Codec
from unmask_training.vocabulary import IMAGE_CODES, TEXT_TOKENS

_EARS = "model.audio_model.model."


def with_tokens(backbone: Mapping[str, Tensor], old: Tokenizer, new: Tokenizer) -> dict[str, Tensor]:
    """The weights with their tables of `old` tokens made into tables of `new` tokens."""
    pieces = []
    for i in range(new.get_vocab_size()):
        known = old.token_to_id(str(new.id_to_token(i)))
        spelled = [known] if known is not None else old.encode(new.decode([i]), add_special_tokens=False).ids
        pieces.append(torch.tensor(spelled or [0]))

    def table(rows: Tensor) -> Tensor:
        return torch.stack([rows[ids].mean(0) for ids in pieces])

    def heard(rows: Tensor) -> Tensor:  # CTC: class 0 is the blank, class i + 1 text token i
        blank, words = rows[:1], rows[1:]
        return torch.cat(
            [blank, *(words[ids.clamp(max=len(words) - 1)].mean(0, keepdim=True) for ids in pieces[:TEXT_TOKENS])]
        )

    made = {"model.embed_tokens.weight": table, "lm_head.weight": table}
    made |= {f"{_EARS}ctc.ctc_lo.{name}": heard for name in ("weight", "bias")}
    return {name: made[name](t) if name in made else t for name, t in backbone.items()}


def with_new_images(backbone: Mapping[str, Tensor], tokenizer: Tokenizer) -> dict[str, Tensor]:
    """The weights with nothing known of any image code."""
    first = tokenizer.token_to_id("<|image_0|>")
    assert first is not None  # every tokenizer of the recipe has image codes
    tables = ("model.embed_tokens.weight", "lm_head.weight")
    made = {name: t.clone() for name, t in backbone.items() if name in tables}
    for table in made.values():
        torch.nn.init.normal_(table[first : first + IMAGE_CODES], std=0.02)
    return {**backbone, **made}


def warm_start(bundle: Path, work: Path) -> None:
    """Write what the parts of the recipe would have written."""
    work.mkdir(parents=True, exist_ok=True)
    old = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    new = Tokenizer.from_file(str(work / "tokenizer.json")) if (work / "tokenizer.json").exists() else old
    is_new = new.get_vocab() != old.get_vocab()
    for name in ("tokenizer.json", "am.mvn"):
        if not (work / name).exists():
            with whole(work / name) as partial:
                shutil.copyfile(bundle / name, partial)

    def stored(name: str) -> dict[str, Tensor]:
        weights = load_file(str(bundle / f"{name}.safetensors"))
        return {n: t.float() if t.is_floating_point() else t for n, t in weights.items()}

    backbone = stored("backbone")
    if is_new:
        backbone = with_tokens(backbone, old, new)
    pictures = stored("image_tokenizer")
    same_codes = len(pictures["quantize.power_vals"]) == train_image_codec.CONFIG.num_bits
    if not same_codes:
        backbone = with_new_images(backbone, new)
    save_weights(backbone, work / "start.pt")
    if (bundle / RECORD).is_file():
        shutil.copyfile(bundle / RECORD, work / START_RECORD)
    hearing = {n.removeprefix(_EARS): t for n, t in backbone.items() if n.startswith(_EARS)}
    save_weights(hearing, work / ("ears_start.pt" if is_new else "ears.pt"))
    save_weights(pictures, work / ("image_codec.pt" if same_codes else "image_codec_start.pt"))
    if same_codes:
        save_weights(pictures, work / "image_decoder.pt")
    save_weights(stored("vocoder"), work / "vocoder.pt")
    codec = Codec()
    codec.tokenizer.load_state_dict(stored("speech_tokenizer"))
    codec.flow.load_state_dict(stored("speech_flow"), strict=False)
    codec.codebook.copy_(codec.tokenizer.codebook.weight.detach())
    save_weights(codec.state_dict(), work / "speech_codec.pt")
    speech_out = {f"flow.{name}": t for name, t in codec.flow.state_dict().items()}
    save_weights(speech_out | {f"vocoder.{name}": t for name, t in stored("vocoder").items()}, work / "speech_out.pt")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Start a work folder of the recipe from a bundle.")
    parser.add_argument("bundle", help="name or directory")
    parser.add_argument("work", type=Path)
    options = parser.parse_args()
    warm_start(find_bundle(options.bundle), options.work)
