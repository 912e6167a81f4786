"""From a component's description to its module: built on the meta device, then filled from its files."""

import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import nn

from unmask_engine.bundle import Bundle, BundleError, ComponentName
from unmask_engine.checkpoint import fitting_tensors, load_weights
from unmask_engine.codecs.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from unmask_engine.codecs.speech_flow import FlowConfig, SpeechFlow
from unmask_engine.codecs.speech_tokenizer import SpeechTokenizer, SpeechTokenizerConfig
from unmask_engine.codecs.vocoder import Vocoder, VocoderConfig
from unmask_engine.models.backbone import BackboneConfig
from unmask_engine.models.omni import OmniModel
from unmask_engine.models.speech_encoder import SpeechEncoderConfig

Fields = Mapping[str, Any]


def _omni_model(backbone: Fields, speech: Fields) -> OmniModel:
    return OmniModel(config_from_json(BackboneConfig, backbone), config_from_json(SpeechEncoderConfig, speech))


BUILDERS: Final[Mapping[ComponentName, Callable[[Fields], nn.Module]]] = {
    "backbone": lambda fields: _omni_model(**fields),
    "image_tokenizer": lambda fields: ImageTokenizer(config_from_json(ImageTokenizerConfig, fields)),
    "speech_flow": lambda fields: SpeechFlow(config_from_json(FlowConfig, fields)),
    "vocoder": lambda fields: Vocoder(config_from_json(VocoderConfig, fields)),
    "speech_tokenizer": lambda fields: SpeechTokenizer(config_from_json(SpeechTokenizerConfig, fields)),
}


def build_component(bundle: Bundle, name: ComponentName) -> nn.Module:
    """The module by its config alone, on the meta device: names, shapes and types, no memory."""
    try:
        with torch.device("meta"):
            return BUILDERS[name](bundle.component(name).config)
    except (TypeError, ValueError) as error:
        raise BundleError(f"bundle {bundle.name}: the config of {name} does not fit: {error}") from error


def check_component(bundle: Bundle, name: ComponentName) -> None:
    """Raises BundleError where `load_component` would for what its files hold; reads their headers alone."""
    fitting_tensors(build_component(bundle, name), bundle.files(name), bundle.component(name).ignored_keys)


def load_component(
    bundle: Bundle, name: ComponentName, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> nn.Module:
    """The module with its weights, in evaluation mode and without gradients. `dtype` overrides the component's own."""
    module = build_component(bundle, name)
    component = bundle.component(name)
    if dtype is None and component.dtype is not None:
        dtype = getattr(torch, component.dtype)
    load_weights(module, bundle.files(name), device=device, dtype=dtype, ignored_keys=component.ignored_keys)
    return module.eval().requires_grad_(False)


C = typing.TypeVar("C")


def config_from_json(cls: type[C], fields: Fields) -> C:
    """A config dataclass from JSON values: lists become tuples, objects the dataclass the field wants."""
    hints = typing.get_type_hints(cls)
    if unknown := sorted(set(fields) - set(hints)):
        raise ValueError(f"{cls.__name__} has no field {', '.join(unknown)}")
    return cls(**{name: _value(hints[name], value) for name, value in fields.items()})


def config_to_json(config: object) -> dict[str, Any]:
    """What `config_from_json` reads."""
    assert dataclasses.is_dataclass(config)
    assert not isinstance(config, type)
    return dataclasses.asdict(config)


def _value(hint: Any, value: Any) -> Any:
    if isinstance(value, Mapping) and dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return config_from_json(hint, value)
    return tuple(_value(None, item) for item in value) if isinstance(value, list) else value
