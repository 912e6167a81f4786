"""The table of small talk: enough intents, nothing twice, answers that can be spoken."""

from unmask_training import small_talk
from unmask_training.small_talk import INTENTS, by_answer, words

MOST_ANSWER_WORDS = 7  # said word by word, with pauses, they fit behind the mark of a spoken answer
MOST_LETTERS = 34


def test_there_are_a_hundred_intents_and_no_sentence_is_in_two_places() -> None:
    assert len(INTENTS) >= 100
    sentences = [text for intent in INTENTS for text in (*intent.asked, *intent.held_out)]
    assert len(sentences) == len(set(sentences))


def test_every_intent_has_ways_of_asking_that_are_kept_back() -> None:
    assert all(intent.asked and intent.held_out for intent in INTENTS)
    trained, kept = by_answer(trained=True), by_answer(trained=False)
    assert trained.keys() == kept.keys()
    assert not {q for asked in trained.values() for q in asked} & {q for asked in kept.values() for q in asked}


def test_answers_can_be_spoken_by_a_small_lexicon() -> None:
    answers = {intent.answer for intent in INTENTS}
    assert all(len(answer.split()) <= MOST_ANSWER_WORDS and len(answer) <= MOST_LETTERS for answer in answers)
    assert len({word for answer in answers for word in answer.split()}) <= 120
    for text in (*answers, *(q for intent in INTENTS for q in (*intent.asked, *intent.held_out))):
        assert text == text.lower().strip()
        assert text.replace(" ", "").isalpha()


def test_a_question_kept_back_uses_no_word_that_training_lacks() -> None:
    """It shall test whether an intent was understood, not a vocabulary."""
    assert words(trained=False) <= words(trained=True)


def test_sums_are_right() -> None:
    numbers = small_talk.NUMBERS
    for intent in INTENTS:
        if " plus " in intent.held_out[0]:
            a, _, b, *_ = intent.held_out[0].split()
            assert numbers.index(a) + numbers.index(b) == numbers.index(intent.answer)
