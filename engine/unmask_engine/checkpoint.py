"""Safetensors -> module: strict, memory-mapped, straight to the target device and dtype."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from unmask_engine.bundle import BundleError

MAX_NAMED = 8  # names an error message lists before it counts the rest

# Safetensors' names of types, by what may stand in for what: any float for a float, but never an integer.
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


@dataclass(frozen=True)
class StoredTensor:
    file: Path
    dtype: str  # safetensors' name: "F32", "BF16", "I64", ...
    shape: tuple[int, ...]


def stored_tensors(files: Sequence[Path]) -> dict[str, StoredTensor]:
    """What the files hold, from their headers alone. A sharded checkpoint is given by its `*.index.json`."""
    found: dict[str, StoredTensor] = {}
    for file in shards(files):
        with _open(file, "numpy", "cpu") as tensors:
            for name in tensors.keys():  # noqa: SIM118, not a mapping
                if name in found:
                    raise BundleError(f"tensor {name} is stored twice: in {found[name].file} and {file}")
                part = tensors.get_slice(name)
                found[name] = StoredTensor(file, str(part.get_dtype()), tuple(part.get_shape()))
    return found


def shards(files: Sequence[Path]) -> list[Path]:
    """The safetensors files behind `files`: an index stands for the shards it names, next to it."""
    out: list[Path] = []
    for file in files:
        if file.name.endswith(".index.json"):
            try:
                names = sorted(set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()))
            except (ValueError, KeyError, AttributeError) as error:
                raise BundleError(f"{file} is not an index of safetensors shards: {error}") from error
            if bad := [name for name in names if Path(name).name != name]:
                raise BundleError(f"{file} names shards outside its own folder: {', '.join(bad)}")
            out += [file.with_name(name) for name in names]
        else:
            out.append(file)
    return out


def mismatches(
    module: nn.Module, stored: Mapping[str, StoredTensor], ignored_keys: Iterable[str] = ()
) -> tuple[str, ...]:
    """All differences between a module (may be on the meta device) and what is stored; empty when they agree."""
    expected = module.state_dict()
    ignored = tuple(ignored_keys)
    found = {name: tensor for name, tensor in stored.items() if not _matches(name, ignored)}
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is not part of the model" for name in found if name not in expected]
    for name, tensor in found.items():
        want = expected.get(name)
        if want is None:
            continue
        if tuple(want.shape) != tensor.shape:
            problems.append(f"{name} has shape {list(tensor.shape)}, the model wants {list(want.shape)}")
        if want.is_floating_point() != (tensor.dtype in FLOATS):
            problems.append(f"{name} is stored as {tensor.dtype}, the model wants {want.dtype}")
    return tuple(problems)


def fitting_tensors(
    module: nn.Module, files: Sequence[Path], ignored_keys: Iterable[str] = ()
) -> dict[str, StoredTensor]:
    """`stored_tensors`; raises BundleError that names what does not fit the module."""
    stored = stored_tensors(files)
    if problems := mismatches(module, stored, ignored_keys):
        shown = "; ".join(problems[:MAX_NAMED])
        rest = f"; and {len(problems) - MAX_NAMED} more" if len(problems) > MAX_NAMED else ""
        raise BundleError(f"{files[0]} does not fit {type(module).__name__}: {shown}{rest}")
    return stored


def load_weights(
    module: nn.Module,
    files: Sequence[Path],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    ignored_keys: Iterable[str] = (),
) -> None:
    """Fill a module that was built on the meta device.

    Floating-point tensors are cast to `dtype` (None keeps the stored type), integers never. Raises BundleError that
    names missing, unknown and wrongly shaped tensors. On the CPU, weights that need no cast stay mapped to the file.
    """
    ignored = tuple(ignored_keys)
    stored = fitting_tensors(module, files, ignored)
    state = dict(_read(stored, ignored, torch.device(device), dtype))
    module.load_state_dict(state, strict=True, assign=True)
    left = [name for name, tensor in _all_tensors(module) if tensor.is_meta]
    if left:
        raise BundleError(
            f"{type(module).__name__} has tensors that no checkpoint fills: {', '.join(left[:MAX_NAMED])}"
        )


def _read(
    stored: Mapping[str, StoredTensor], ignored: tuple[str, ...], device: torch.device, dtype: torch.dtype | None
) -> Iterator[tuple[str, Tensor]]:
    for file in dict.fromkeys(tensor.file for tensor in stored.values()):
        with _open(file, "pt", str(device)) as tensors:
            for name in tensors.keys():  # noqa: SIM118, not a mapping
                if _matches(name, ignored):
                    continue
                tensor: Tensor = tensors.get_tensor(name)
                yield name, tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _all_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _open(file: Path, framework: str, device: str) -> safe_open:
    try:
        return safe_open(file, framework=framework, device=device)
    except FileNotFoundError:
        raise BundleError(f"{file} is not there") from None
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{file} is not a complete safetensors file: {error}") from error
