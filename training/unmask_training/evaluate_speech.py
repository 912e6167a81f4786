"""Hearing and speaking: recognition, synthesis, speech to picture, spoken questions about pictures.

Speech is judged by the model's own ears and by pocketsphinx. Recordings are made on the spot by espeak-ng and flite.
"""

import numpy as np

from unmask_engine.request import AudioPart, Part, TextPart
from unmask_training.evaluate_pictures import by_kind, judged
from unmask_training.examiner import (
    Examiner,
    Measure,
    Measures,
    audio_of,
    error_rate,
    heard_rates,
    held_out,
    image_of,
    says_its_text,
    share,
    speech_of,
)
from unmask_training.language import all_questions, caption, questions, sentence
from unmask_training.listeners import content_words, sphinx_hears_all
from unmask_training.scene_reader import names_right, same_things
from unmask_training.voices import SPEAKING_VOICE, Delivery, record_all
from unmask_training.world import describable_scene, free_scene


def _recognised(examiner: Examiner, task: str, name: str, unseen: bool) -> Measures:
    rng = examiner.rng(task)
    said = held_out(
        lambda: sentence(rng, describable_scene(rng)),
        lambda text: text not in examiner.seen.sentences,
        examiner.samples,
    )
    return heard_rates(examiner, name, said, speech_of(said, rng, unseen))


def recognition(examiner: Examiner) -> Measures:
    return _recognised(examiner, "asr", "speech -> text WER", False)


def recognition_unseen_voice(examiner: Examiner) -> Measures:
    return _recognised(examiner, "asr_unseen_voice", "speech -> text WER, unseen voice", True)


def synthesis(examiner: Examiner) -> Measures:
    rng, lexicon = examiner.rng("tts"), content_words()
    said = held_out(
        lambda: " ".join(rng.choice(lexicon) for _ in range(rng.randint(3, 6))),
        lambda text: text not in examiner.seen.sentences,
        examiner.spoken_samples,
    )
    audio = [audio_of(g) for g in examiner.answers([(TextPart(t),) for t in said], ("audio",), "tts")]
    voice = record_all(said, [Delivery(SPEAKING_VOICE)] * len(said), 22_050)
    source = [AudioPart((v / 32767).astype(np.float32), 22_050) for v in voice]
    heard = sphinx_hears_all([(a.samples, a.sample_rate) for a in (*audio, *source)])
    return {
        **heard_rates(examiner, "text -> speech WER, own ears", said, audio),
        "text -> speech WER, pocketsphinx": error_rate(list(zip(said, heard[: len(said)], strict=True))),
        "(the source voice itself, pocketsphinx WER)": error_rate(list(zip(said, heard[len(said) :], strict=True))),
    }


def speech_to_image(examiner: Examiner) -> Measures:
    """Captions heard, half of them of one thing, and the same ones read: what hearing costs is in the ratio."""
    rng, half = examiner.rng("s2i"), examiner.samples // 2
    scenes = examiner.scenes("s2i", True, half) + examiner.scenes("s2i", False, examiner.samples - half)
    texts = [caption(s, rng) for s in scenes]
    spoken = examiner.answers([(a,) for a in speech_of(texts, rng)], ("image",), "s2i")
    typed = examiner.answers([(TextPart(t),) for t in texts], ("image",), "t2i")
    found = {}
    for name, single in (("1 object", True), ("2-3 objects", False)):
        chosen = [i for i, s in enumerate(scenes) if (len(s.things) == 1) == single]
        if chosen:
            shown = [scenes[i] for i in chosen], [spoken[i] for i in chosen]
            found[f"speech -> image {name}, shape and colour"] = judged(names_right, *shown)
            found[f"speech -> image {name}, all right"] = judged(same_things, *shown)
    right, read = judged(same_things, scenes, spoken), judged(same_things, scenes, typed)
    ratio = right.value / read.value if read.value else float(right.value > 0)
    return found | {
        "speech -> image, all right": right,
        "(the same captions typed, all right)": read,
        "speech -> image as a share of typed": Measure(ratio, len(scenes)),
    }


def spoken_questions(examiner: Examiner) -> Measures:
    rng = examiner.rng("svqa")
    recorded = set(all_questions())
    asked: list[tuple[str, str]] = []
    shown, kinds = [], []
    while len(asked) < examiner.spoken_samples:
        scene = free_scene(rng)
        kind, question, answer = rng.choice([q for q in questions(scene, rng) if q[0] != "describe"])
        if question in recorded:
            asked.append((question, answer))
            shown.append(image_of(scene, rng))
            kinds.append(kind)
    speech = speech_of([question for question, _ in asked], rng)
    parts: list[tuple[Part, ...]] = list(zip(speech, shown, strict=True))
    made = examiner.answers(parts, ("text", "audio"), "svqa")
    right = [g.text == answer for g, (_, answer) in zip(made, asked, strict=True)]
    name = "spoken question + image -> text"
    return {
        name: share(right),
        **by_kind(name, kinds, right),
        "its speech says its text (1 - WER, own ears)": says_its_text(examiner, made),
    }
