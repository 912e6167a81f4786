"""The least seconds of a denoising step: what arithmetic and memory of a device allow, with nothing lost between.

Weights are read once a step. The layers' products take as long as reading their weights or as multiplying, whichever is
longer; so does the head; the attention's products come on top. Activations are taken to stay in caches.
"""

from collections.abc import Sequence

from devices import Rates

from unmask_engine.models.backbone import BackboneConfig


def layer_weights(config: BackboneConfig) -> int:
    """Parameters of all layers' matrices."""
    kv_size = config.num_kv_heads * config.head_dim
    attention = 2 * config.hidden_size * (config.hidden_size + kv_size)
    return config.num_layers * (attention + 3 * config.hidden_size * config.intermediate_size)


def floor_s(
    config: BackboneConfig, lengths: Sequence[int], head_rows: float, rates: Rates, item_size: int = 2
) -> float:
    """Sequences of these lengths in one pass that predicts `head_rows` positions; weights of `item_size` bytes."""

    def product_s(weights: int, rows: float) -> float:
        return max(weights * item_size / rates.bytes, 2 * weights * rows / rates.flops)

    attention_flops = 4 * config.hidden_size * config.num_layers * sum(length**2 for length in lengths)
    layers_s = product_s(layer_weights(config), sum(lengths))
    return layers_s + attention_flops / rates.flops + product_s(config.vocab_size * config.hidden_size, head_rows)
