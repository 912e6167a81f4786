"""A bundle in memory: its modules, tokenizer and presets, ready to generate."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmask_engine.alignment import WordClock
from unmask_engine.bfloat16 import multiplies_bfloat16
from unmask_engine.bundle import Bundle, ComponentName, load_bundle
from unmask_engine.codecs.image_tokenizer import ImageTokenizer
from unmask_engine.codecs.speech_decoder import SpeechDecoder
from unmask_engine.codecs.speech_flow import SpeechFlow
from unmask_engine.codecs.speech_tokenizer import SpeechTokenizer
from unmask_engine.codecs.vocoder import Vocoder
from unmask_engine.components import check_component, load_component
from unmask_engine.models.omni import OmniModel
from unmask_engine.models.speech_encoder import NUM_QUERY_ROWS, SpeechEncoder
from unmask_engine.models.speech_frontend import SpeechFrontend, read_cmvn
from unmask_engine.preset import Preset
from unmask_engine.runner import Backbone
from unmask_engine.text import TextTokenizer
from unmask_engine.vocabulary import Vocabulary


class Model(Backbone, Protocol):
    """The backbone with its speech encoder."""

    def encode_speech(self, feats: Tensor) -> Tensor:
        """(1, T, F) features of the speech front end -> (1, T', H) embeddings."""


class Tokenizer(Protocol):
    def encode_plain(self, text: str) -> Sequence[int]:
        """Ids of anyone's text; never that of a special token."""

    def encode_template(self, template: str, slots: Mapping[str, str]) -> Sequence[int]:
        """Ids of a template with special tokens, its slots filled with anyone's text."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""

    def id_of(self, token: str) -> int:
        """Id of one whole token; ValueError if there is none."""


class Frontend(Protocol):
    def __call__(self, samples: NDArray[np.float32]) -> Tensor:
        """(T,) samples at `LoadedBundle.audio_input_rate` -> (R, F) features; R is 0 where there are too few."""


class ImageCodec(Protocol):
    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> codes (B, h, w)."""

    def decode(self, ids: Tensor) -> Tensor:
        """Codes (B, h, w) -> (B, 3, H, W), not clamped."""


class SpeechCodec(Protocol):
    sample_rate: int

    def decode(self, ids: Tensor, seed: int) -> Tensor:
        """Codes (L,) -> samples (T,)."""


class SpeechTokens(Protocol):
    def encode(self, samples: Tensor) -> Tensor:
        """(T,) samples at `LoadedBundle.audio_input_rate` -> codes (L,), the last one maybe of a part of its time."""


class LazySpeechTokens:
    """Loads them when they are first asked for, once, on any thread: only edits of speech need them.

    The published ones take 1.4 GB of a GPU.
    """

    def __init__(self, load: Callable[[], SpeechTokens]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._loaded: SpeechTokens | None = None

    def encode(self, samples: Tensor) -> Tensor:
        """See `SpeechTokens`."""
        with self._lock:
            if self._loaded is None:
                with torch.inference_mode(False):  # whoever asks, the weights are ordinary tensors
                    self._loaded = self._load()
        return self._loaded.encode(samples)


@dataclass(frozen=True)
class LoadedBundle:
    """A codec that is None takes the tasks that need it away; the rest works."""

    name: str
    model: Model
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    presets: tuple[Preset, ...]
    device: torch.device
    image_codec: ImageCodec | None = None
    speech_frontend: Frontend | None = None
    speech_codec: SpeechCodec | None = None
    speech_tokenizer: SpeechTokens | None = None
    image_input_size: int = 512  # pixels a side
    image_output_size: int = 256  # pixels a side of a drawn image
    image_grid: int = 16  # tokens a side of it
    audio_input_rate: int = 16000  # Hz
    audio_token_rate: float = 12.5  # speech codes a second
    word_clock: WordClock | None = None

    @classmethod
    def load(
        cls, path_or_name: str | Path, device: torch.device | str = "cpu", tensor_parallel: int = 1
    ) -> "LoadedBundle":
        """Read a bundle's weights; raises BundleError where something is missing.

        Codecs run in float32: in bfloat16 some of their codes come out otherwise (mini-notes.md). `tensor_parallel`
        processes share the backbone; they end with this one.
        """
        bundle = load_bundle(path_or_name)
        device = torch.device(device)
        is_split = tensor_parallel > 1
        model = cast(OmniModel, load_component(bundle, "backbone", device="cpu" if is_split else device))
        if device.type == "cpu" and multiplies_bfloat16(device):
            model.model.layers.to(torch.bfloat16)  # embeddings, the sum past the layers, head and ears need float32
        if device.type == "cuda" and not is_split:
            model.model.join_products()
        (tokenizer_file,) = bundle.files("text_tokenizer")
        tokenizer = TextTokenizer(tokenizer_file)
        size = model.lm_head.weight.shape[0]
        image_codec = _image_codec(bundle, device)
        return cls(
            name=bundle.name,
            model=_split(bundle, model, device, tensor_parallel) if is_split else model,
            tokenizer=tokenizer,
            vocabulary=Vocabulary.build(bundle.tokens, size, tokenizer.id_of, tokenizer.encode_plain),
            presets=bundle.presets,
            device=device,
            image_codec=image_codec,
            speech_frontend=_frontend(bundle),
            speech_codec=_speech_codec(bundle, device),
            speech_tokenizer=_speech_tokenizer(bundle, device),
            image_input_size=bundle.media.image_input_size,
            image_output_size=bundle.media.image_output_size,
            image_grid=bundle.media.image_output_size // (image_codec.config.factor if image_codec else 16),
            audio_input_rate=bundle.media.audio_input_rate,
            audio_token_rate=bundle.media.audio_token_rate,
            word_clock=_word_clock(bundle, model.speech_encoder, tokenizer),
        )


def _split(bundle: Bundle, model: OmniModel, device: torch.device, size: int) -> Model:
    from unmask_engine.tensor_parallel import lead  # torch's distributed tensors take a while to import

    return lead(bundle, model, device, size)


def _image_codec(bundle: Bundle, device: torch.device) -> ImageTokenizer | None:
    if _is_left_out(bundle, "image_tokenizer"):
        return None
    return cast(ImageTokenizer, load_component(bundle, "image_tokenizer", device=device, dtype=torch.float32))


def _speech_codec(bundle: Bundle, device: torch.device) -> SpeechDecoder | None:
    if _is_left_out(bundle, "speech_flow") or _is_left_out(bundle, "vocoder"):
        return None
    flow = cast(SpeechFlow, load_component(bundle, "speech_flow", device=device, dtype=torch.float32))
    vocoder = cast(Vocoder, load_component(bundle, "vocoder", device=device, dtype=torch.float32))
    return SpeechDecoder(flow, vocoder.fold_weight_norm(), bundle.media.audio_output_rate)


def _speech_tokenizer(bundle: Bundle, device: torch.device) -> SpeechTokens | None:
    if _is_left_out(bundle, "speech_tokenizer"):
        return None
    check_component(bundle, "speech_tokenizer")  # what is wrong with it is said now, not at the first edit

    def load() -> SpeechTokenizer:
        return cast(SpeechTokenizer, load_component(bundle, "speech_tokenizer", device=device, dtype=torch.float32))

    return LazySpeechTokens(load)


def _word_clock(bundle: Bundle, encoder: SpeechEncoder, tokenizer: TextTokenizer) -> WordClock | None:
    row_s = bundle.media.ctc_row_s
    if row_s is None:
        return None
    frontend = _frontend(bundle)

    @torch.inference_mode()
    def hear(samples: NDArray[np.float32]) -> Tensor:
        feats = frontend(samples)
        if len(feats) == 0:
            return torch.zeros(0, encoder.config.ctc_vocab)
        weight = encoder.embed.weight
        rows = encoder(feats.unsqueeze(0).to(weight.device, weight.dtype))[:, NUM_QUERY_ROWS:]
        return torch.log_softmax(encoder.ctc_logits(rows)[0].float(), dim=-1)

    return WordClock(hear, tokenizer.encode_plain, bundle.media.audio_input_rate, row_s, bundle.media.ctc_delay_s)


def _frontend(bundle: Bundle) -> SpeechFrontend:
    if _is_left_out(bundle, "cmvn"):
        return SpeechFrontend(None)
    (file,) = bundle.files("cmvn")
    return SpeechFrontend(read_cmvn(file))


def _is_left_out(bundle: Bundle, name: ComponentName) -> bool:
    """Not described, or optional and not there. What is required and missing is reported by the loading."""
    described = bundle.components.get(name)
    return described is None or (described.optional and not bundle.has(name))
