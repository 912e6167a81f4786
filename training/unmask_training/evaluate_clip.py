"""How well drawings fit their captions by CLIP (arXiv 2104.08718, without its factor of 2.5), from a local model."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from unmask_engine.request import ImagePart

_BATCH = 16


class ClipError(RuntimeError):
    """What CLIP lacks, and how to get it."""


def load_clip(folder: Path) -> Callable[[Sequence[ImagePart], Sequence[str]], list[float]]:
    """(pictures, captions) -> cosines of their embeddings, negative ones as 0. Nothing is downloaded."""
    if not (folder / "config.json").is_file():
        raise ClipError(f"{folder}: a folder with a CLIP model as transformers saves it is needed (config.json, ...)")
    try:
        transformers: Any = import_module("transformers")
    except ImportError as error:
        raise ClipError("CLIP scores need transformers: pip install transformers") from error
    model: Any = transformers.CLIPModel.from_pretrained(str(folder), local_files_only=True).eval()
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    images: Any = transformers.AutoImageProcessor.from_pretrained(str(folder), local_files_only=True)
    longest = model.config.text_config.max_position_embeddings

    @torch.inference_mode()
    def score(pictures: Sequence[ImagePart], captions: Sequence[str]) -> list[float]:
        found: list[float] = []
        for start in range(0, len(pictures), _BATCH):
            chosen = slice(start, start + _BATCH)
            texts = tokenizer(
                list(captions[chosen]), return_tensors="pt", padding=True, truncation=True, max_length=longest
            )
            shown = images([Image.fromarray(p.pixels) for p in pictures[chosen]], return_tensors="pt")
            out = model(
                input_ids=texts["input_ids"],
                attention_mask=texts["attention_mask"],
                pixel_values=torch.as_tensor(shown["pixel_values"]),
            )
            cosines = torch.nn.functional.cosine_similarity(out.image_embeds, out.text_embeds)
            found += cosines.clamp(min=0).tolist()
        return found

    return score
