"""The model that is fine-tuned: all of it or LoRA adapters, its loss, and the bundle that comes out."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final, cast

import torch
import torch.nn.functional as F
from huggingface_hub import save_torch_state_dict
from torch import Tensor, nn

from unmask_engine.bundle import Bundle
from unmask_engine.components import build_component
from unmask_engine.models.omni import OmniModel
from unmask_training.finetune_batches import Packed

# The matrices of the layers; embeddings, head and projector stay as they are.
LORA_TARGETS = r"model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
BACKBONE: Final = "backbone"


class Objective(nn.Module):
    """Mean cross-entropy over hidden positions, each predicted by the hidden state before it (paper.md, Eq. 1)."""

    def __init__(self, omni: OmniModel, mask: int) -> None:
        super().__init__()
        self.omni, self.mask = omni, mask

    def forward(self, batch: Packed) -> Tensor:
        projection = self.omni.model.audio_projection
        # A row of zeros keeps the projector in every step's graph: several processes must agree on what has gradients.
        silent = batch.rows.new_zeros(1, projection.pre_proj_layernorm.weight.shape[0])
        speech: Tensor = projection(torch.cat([batch.rows, silent]).to(projection.pre_proj_layernorm.weight.dtype))
        embeds = self.omni.embed(torch.where(batch.hidden, self.mask, batch.ids))
        embeds = embeds.index_copy(0, batch.at, speech[:-1].to(embeds.dtype))
        wanted = batch.hidden.nonzero()[:, 0]
        out = self.omni.forward_packed(embeds, batch.lengths)
        loss: Tensor = F.cross_entropy(self.omni.logits(out[wanted - 1]).float(), batch.ids[wanted])
        return loss + 0.0 * speech[-1].float().sum()


def freeze_ears(omni: OmniModel) -> None:
    """The speech encoder hears and does not learn (paper.md, Training)."""
    omni.requires_grad_(True)
    omni.speech_encoder.requires_grad_(False)


def add_lora(omni: OmniModel, rank: int) -> None:
    """Low-rank adapters on every matrix of the layers (arXiv 2106.09685), in place; nothing else learns.

    alpha is twice the rank. On the meta device the adapters are there, too.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LORA_TARGETS)
    on_meta = omni.lm_head.weight.is_meta
    inject_adapter_in_model(config, omni, low_cpu_mem_usage=on_meta)


def merge_lora(omni: OmniModel) -> None:
    """Add the adapters to the weights and remove them: names and shapes are those of the model without."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(omni.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, leaf = name.rpartition(".")
            setattr(omni.get_submodule(parent), leaf, module.get_base_layer())


def export(bundle: Bundle, state: Mapping[str, Tensor], lora_rank: int, out: Path) -> None:
    """Write `out` as a bundle like `bundle`, with the weights of an `Objective`'s state dict, merged, in bfloat16."""
    omni = cast(OmniModel, build_component(bundle, BACKBONE))
    if lora_rank:
        add_lora(omni, lora_rank)
    omni.load_state_dict({name.removeprefix("omni."): t.cpu() for name, t in state.items()}, assign=True)
    if lora_rank:
        merge_lora(omni)
    others = [component for name, component in bundle.components.items() if name != BACKBONE]
    for kept in (file for component in others for file in component.source.files):
        if (bundle.path / kept).is_file():
            (out / kept).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.path / kept, out / kept)
    for old in out.glob(f"{BACKBONE}*.safetensors*"):
        old.unlink()
    weights = {name: _stored(t) for name, t in omni.state_dict().items()}
    save_torch_state_dict(weights, out, filename_pattern=f"{BACKBONE}{{suffix}}.safetensors")
    for file in out.glob(f"{BACKBONE}*.safetensors"):
        file.chmod(0o644)  # it is written for its owner alone
    index = out / f"{BACKBONE}.safetensors.index.json"
    description = json.loads((bundle.path / "bundle.json").read_text(encoding="utf-8"))
    description["name"] = out.name
    description["description"] = f"Fine-tuned from {bundle.name}. {bundle.description}"
    name = index.name if index.exists() else f"{BACKBONE}.safetensors"
    description["components"][BACKBONE]["source"] = {"files": [name]}
    (out / "bundle.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def _stored(tensor: Tensor) -> Tensor:
    return (tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor).contiguous()
