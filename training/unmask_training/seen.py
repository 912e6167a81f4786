"""What a training by the recipe was shown, made again from its seed without drawing or recording it.

Pictures are told apart by what is in them and where, so whatever caption a trained picture had, its combination is not
new. What the recipe draws while it trains cannot be made again: the words of synthesis in any order, of which it is
all but certain that none comes twice, and free pictures, whose things lie anywhere.
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from unmask_training.corpus import listening_script, speaking_script
from unmask_training.pools import scenes
from unmask_training.world import Scene, Thing

RECIPE = Path(__file__).with_name("mini.toml")
RECORD = "training.json"  # beside a bundle's description: how it was trained
START_RECORD = "start.json"  # in a work folder: the record of the bundle that it was begun from (warm_start.py)
KINDS = ("captions", "takes", "talk_takes", "others", "apart", "own")  # of recordings, in the recipe's [data]

Picture = tuple[frozenset[Thing], str]


@dataclass(frozen=True)
class Seen:
    """Described pictures and sentences of a training."""

    pictures: frozenset[Picture] = frozenset()
    sentences: frozenset[str] = frozenset()

    def has_drawn(self, scene: Scene) -> bool:
        return picture(scene) in self.pictures


def trained_minutes(bundle: Path) -> float | None:
    """For how long the bundle's backbone was trained, where its record says so."""
    if not (bundle / RECORD).is_file():
        return None
    found = json.loads((bundle / RECORD).read_text(encoding="utf-8")).get("minutes")
    return None if found is None else float(found)


def picture(scene: Scene) -> Picture:
    """What a described scene shows, however it is put into words."""
    return frozenset(scene.things), scene.background


def recipes_of(bundle: Path) -> list[Mapping[str, Any]]:
    """The recipes that made a bundle and those it began from, as recorded beside it; else the one that is installed."""
    if not (bundle / RECORD).is_file():
        return [tomllib.loads(RECIPE.read_text(encoding="utf-8"))]
    record, recipes = json.loads((bundle / RECORD).read_text(encoding="utf-8")), []
    while record is not None:
        recipes.append(record["config"])
        record = record.get("start")
    return recipes


@lru_cache(maxsize=1)
def seen_by(bundle: Path) -> Seen:
    """What the trainings of a bundle saw; seconds."""
    every = [seen_in(recipe) for recipe in recipes_of(bundle)]
    return Seen(frozenset().union(*(s.pictures for s in every)), frozenset().union(*(s.sentences for s in every)))


def seen_in(recipe: Mapping[str, Any]) -> Seen:
    seed, sizes = recipe["seed"], recipe["data"]
    drawn, _ = scenes(seed + 1, sizes["drawn"], 0)
    said = listening_script(seed, *(sizes.get(kind, 0) for kind in KINDS))  # older recipes know no `own`
    spoken = speaking_script(seed - 1, sizes["speaking"])
    pictures = {picture(scene) for scene in (*drawn, *(s.scene for s in said if s.scene))}
    return Seen(frozenset(pictures), frozenset(s.text for s in (*said, *spoken)))
