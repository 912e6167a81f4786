"""Small talk, typed and spoken: was the intent understood, in trained ways of asking and in ways kept back?"""

from unmask_engine.request import TextPart
from unmask_training.examiner import Examiner, Measures, says_its_text, share, speech_of
from unmask_training.language import SMALL_TALK, as_typed
from unmask_training.small_talk import by_answer


def _asked(examiner: Examiner, anew: bool, count: int) -> list[tuple[str, str]]:
    """(question, answer) of intents that were trained; `anew`: asked in ways that were not."""
    table = {a: asked for a, asked in by_answer(trained=False).items() if a in SMALL_TALK} if anew else SMALL_TALK
    pairs = [(q, a) for a, asked in table.items() for q in asked if not (anew and q in SMALL_TALK[a])]
    rng = examiner.rng(f"talk {anew}")
    return [rng.choice(pairs) for _ in range(count)]


def typed_talk(examiner: Examiner) -> Measures:
    found = {}
    for name, anew in (("small talk", False), ("small talk, asked anew", True)):
        pairs, rng = _asked(examiner, anew, examiner.samples), examiner.rng(f"typed {anew}")
        made = examiner.answers([(TextPart(as_typed(q, rng)),) for q, _ in pairs], ("text",), "chat")
        found[name] = share([g.text == a for g, (_, a) in zip(made, pairs, strict=True)])
    return found


def spoken_talk(examiner: Examiner) -> Measures:
    found = {}
    for name, anew in (("spoken small talk -> text", False), ("spoken small talk, asked anew -> text", True)):
        pairs, rng = _asked(examiner, anew, examiner.spoken_samples), examiner.rng(f"spoken {anew}")
        speech = speech_of([q for q, _ in pairs], rng)
        made = examiner.answers([(a,) for a in speech], ("text", "audio"), "sqa")
        found[name] = share([g.text == a for g, (_, a) in zip(made, pairs, strict=True)])
        if not anew:
            found["its speech says its text (1 - WER, own ears), small talk"] = says_its_text(examiner, made)
    return found
