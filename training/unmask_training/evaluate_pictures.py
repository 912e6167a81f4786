"""Drawing and looking: text to picture, questions, captions. Judged by `scene_reader` and by what a scene holds."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from unmask_engine.request import Generation, TextPart
from unmask_training.examiner import Examiner, Measure, Measures, image_of, share
from unmask_training.language import as_typed, caption, questions
from unmask_training.scene_reader import names_right, read_background, same_things
from unmask_training.world import Scene, free_scene

_KINDS = {  # of questions, as the table calls them
    "color": "colour", "shape": "shape", "count": "count", "place": "place", "yes_no": "yes/no", "size": "size",
    "background": "background", "relation": "relation",
}  # fmt: skip


def judged(
    judge: Callable[[Scene, NDArray[np.uint8]], bool], scenes: Sequence[Scene], made: Sequence[Generation]
) -> Measure:
    return share([g.image is not None and judge(s, g.image.pixels) for s, g in zip(scenes, made, strict=True)])


def _drawn(examiner: Examiner, task: str, single: bool) -> tuple[list[Scene], list[Generation]]:
    rng = examiner.rng(f"{task} captions")
    scenes = examiner.scenes(task, single)
    return scenes, examiner.answers([(TextPart(as_typed(caption(s, rng), rng)),) for s in scenes], ("image",), "t2i")


def one_thing(examiner: Examiner) -> Measures:
    scenes, made = _drawn(examiner, "t2i", single=True)
    return {
        "t2i 1 object, shape and colour": judged(names_right, scenes, made),
        "t2i 1 object, all right": judged(same_things, scenes, made),
        "t2i background": judged(lambda s, p: read_background(p) == s.background, scenes, made),
    }


def several_things(examiner: Examiner) -> Measures:
    scenes, made = _drawn(examiner, "t2i_many", single=False)
    return {
        "t2i 2-3 objects, shapes and colours": judged(names_right, scenes, made),
        "t2i 2-3 objects, all right": judged(same_things, scenes, made),
    }


def image_questions(examiner: Examiner) -> Measures:
    rng = examiner.rng("vqa")
    parts, kinds, answers = [], [], []
    for _ in range(examiner.samples):
        scene = free_scene(rng)
        kind, question, answer = rng.choice([q for q in questions(scene, rng) if q[0] != "describe"])
        parts.append((TextPart(as_typed(question, rng)), image_of(scene, rng)))
        kinds.append(kind)
        answers.append(answer)
    right = [g.text == a for g, a in zip(examiner.answers(parts, ("text",), "vqa"), answers, strict=True)]
    return {"image question": share(right), **by_kind("image question", kinds, right)}


def by_kind(name: str, kinds: Sequence[str], right: Sequence[bool]) -> Measures:
    """A score for each kind of question that was asked."""
    of_kind = {kind: [r for k, r in zip(kinds, right, strict=True) if k == kind] for kind in _KINDS}
    return {f"{name}, {_KINDS[kind]}": share(found) for kind, found in of_kind.items() if found}


def captions(examiner: Examiner) -> Measures:
    rng = examiner.rng("caption")
    scenes = [free_scene(rng) for _ in range(examiner.samples)]
    made = examiner.answers([(image_of(s, rng),) for s in scenes], ("text",), "caption")
    named = [names_in(g.text or "") == sorted(t.name for t in s.things) for g, s in zip(made, scenes, strict=True)]
    return {"caption names all": share(named)}


def names_in(text: str) -> list[str]:
    """The things that a caption names, sorted."""
    found = text.replace(" an ", " a ").removeprefix("an ").removeprefix("a ").replace(" and a ", " a ").split(" a ")
    return sorted(found)
