"""What the recipe writes beside the weights, and what ships."""

import json

from unmask_engine.bundle import load_bundle
from unmask_training.publish import PRESETS
from unmask_training.sequences import SPOKEN_CANVAS, SPOKEN_MARK


def test_the_shipped_bundle_carries_the_presets_that_the_recipe_writes() -> None:
    bundle = load_bundle("unmask-mini")
    assert bundle.presets == PRESETS
    written = json.loads((bundle.path / "bundle.json").read_text())["presets"]
    assert written == [preset.to_json() for preset in PRESETS]


def test_spoken_answers_are_decoded_from_the_left_with_their_text_as_the_first_block() -> None:
    spoken = [preset for preset in PRESETS if preset.outputs == ("text", "audio")]
    assert {preset.task for preset in spoken} == {"sqa", "svqa"}
    for preset in spoken:
        (pin,) = preset.pins
        assert preset.block_size == pin.position(SPOKEN_CANVAS) == SPOKEN_MARK
    assert not any(preset.block_size for preset in PRESETS if preset not in spoken)


def test_no_preset_takes_earlier_turns_as_the_recipe_has_none() -> None:
    """Words before the question spoil the answers of a model that has never seen any."""
    assert not any(preset.dialogue for preset in PRESETS)
