"""Spans of a recording given by the words that are said there -> spans of seconds."""

from collections.abc import Sequence

from unmask_engine.loaded import LoadedBundle
from unmask_engine.request import AudioPart, Edit, RequestError, Span, Word, WordSpan
from unmask_engine.word_times import word_clock


def timed_spans(bundle: LoadedBundle, edit: Edit) -> tuple[Span, ...]:
    """The spans of an edit of speech; raises RequestError where words are not said, or nobody can tell when."""
    if not any(isinstance(span, WordSpan) for span in edit.spans):
        return tuple(span for span in edit.spans if isinstance(span, Span))
    assert isinstance(edit.target, AudioPart)  # edit.py has checked
    clock = word_clock(bundle, "edit.spans")
    if edit.transcript is None:
        message = "spans of words need `transcript`: what the recording says"
        raise RequestError(message, param="edit.transcript", code="missing_input")
    said = clock.words(edit.target, edit.transcript)
    if not said:
        message = "the transcript cannot be what the recording says: it has too many words, or unknown ones, or none"
        raise RequestError(message, param="edit.transcript", code="transcript_invalid")
    found: list[Span] = []
    at = 0
    for span in edit.spans:
        if isinstance(span, WordSpan):
            first, at = _find(span.words, said, at)
            found.append(Span(said[first].start, said[at - 1].end, span.text))
        else:
            found.append(span)
    return tuple(found)


def _find(words: str, said: Sequence[Word], since: int) -> tuple[int, int]:
    """Where `words` begin and end in `said`, from `since` on; case and punctuation make no difference."""
    wanted = [_bare(word) for word in words.split()]
    heard = [_bare(word.text) for word in said]
    for first in range(since, len(heard) - len(wanted) + 1):
        if wanted and heard[first : first + len(wanted)] == wanted:
            return first, first + len(wanted)
    message = f"the transcript lacks {words[:80]!r}, or has it only before the span before; give the spans in order"
    raise RequestError(message, param="edit.spans", code="span_invalid")


def _bare(word: str) -> str:
    return word.casefold().strip(".,;:!?\"'()")
