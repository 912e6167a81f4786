"""Published files -> what Unmask loads: `.pt` and `.bin` to safetensors, a vocabulary with merges to `tokenizer.json`.

`torch.load(weights_only=True)` rebuilds tensors and plain containers only; a file that holds anything else is refused.
"""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from torch import Tensor

from unmask_engine.bundle import BundleError, load_bundle

WRAPPERS = ("state_dict", "model")  # keys under which training code likes to put the weights

# How the Qwen2 family cuts text before byte-pair merging: contractions, words, single digits, punctuation, white space.
QWEN2_CUTS = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)


def convert_bundle(folder: str | Path) -> list[Path]:
    """Makes every file that `bundle.json` says is made of a published one and that is not there yet."""
    bundle = load_bundle(folder)
    written = []
    for component in bundle.components.values():
        for published, wanted in (component.source.convert or {}).items():
            source, target = bundle.path / published, bundle.path / wanted
            if source.is_file() and not target.is_file():
                written.append(convert_file(source, target))
    return written


def convert_file(source: Path, target: Path) -> Path:
    """Writes `target` whole or not at all. Raises BundleError for files that are absent, damaged or of another kind."""
    if not source.is_file():
        raise BundleError(f"{source} is not there")
    if target.is_dir() or not target.parent.is_dir():
        raise BundleError(f"{target} cannot be written: it is a folder, or its folder is not there")
    partial = target.with_name(target.name + ".partial")
    if source.name == "vocab.json":
        byte_pair_tokenizer(source.parent).save(str(partial))
    elif source.suffix in (".pt", ".pth", ".bin", ".ckpt"):
        save_file(read_weights(source), partial, metadata={"format": "pt"})
    else:
        raise BundleError(f"{source}: only .pt, .pth, .bin and .ckpt files and vocab.json can be converted")
    return partial.replace(target)


def read_weights(source: Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch file, contiguous, none sharing memory with another."""
    try:
        data = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise BundleError(f"{source} holds more than tensors, or is no PyTorch file; it was not read") from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise BundleError(f"{source} cannot be read: {type(error).__name__}") from None
    for wrapper in WRAPPERS:
        if isinstance(data, Mapping) and isinstance(data.get(wrapper), Mapping):
            data = data[wrapper]
    if not isinstance(data, Mapping) or not all(isinstance(value, Tensor) for value in data.values()):
        raise BundleError(f"{source} is not a plain collection of named tensors")
    return {str(name): tensor.detach().clone().contiguous() for name, tensor in data.items()}


def byte_pair_tokenizer(folder: Path) -> Tokenizer:
    """A Qwen2-style tokenizer from `vocab.json`, `merges.txt` and the added tokens beside them."""
    tokenizer = Tokenizer(BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_CUTS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    for id_, (content, special) in sorted(_added_tokens(folder).items()):
        token = AddedToken(content, normalized=False, special=special)
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([token])
        if tokenizer.token_to_id(content) != id_:
            got = tokenizer.token_to_id(content)
            raise BundleError(f"{folder}: the added token {content} should have id {id_}, and would get {got}")
    return tokenizer


def _added_tokens(folder: Path) -> dict[int, tuple[str, bool]]:
    """Id -> (token, special). The codes `<|audio_7|>`, `<|image_7|>` are added but not special."""
    config, plain = folder / "tokenizer_config.json", folder / "added_tokens.json"
    if config.is_file():
        listed = json.loads(config.read_text(encoding="utf-8")).get("added_tokens_decoder")
        if listed:
            return {int(id_): (token["content"], bool(token["special"])) for id_, token in listed.items()}
    if not plain.is_file():
        raise BundleError(f"{folder} has neither added_tokens.json nor a tokenizer_config.json that lists added tokens")
    tokens: dict[str, int] = json.loads(plain.read_text(encoding="utf-8"))
    return {id_: (token, not token.startswith(("<|audio_", "<|image_"))) for token, id_ in tokens.items()}
