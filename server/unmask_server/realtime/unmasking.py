"""What a client that asks for it sees of the making of a text: an extra field on its deltas, no event of its own."""

from collections.abc import Callable, Sequence

from unmask_engine.request import Generation, Progress, RequestError, TextToken, Tokens
from unmask_server.engine_protocol import Description
from unmask_server.generate_stream import known_confidence, tokens_json
from unmask_server.realtime.config import Unmask
from unmask_server.realtime.events import JsonObject

FIELD = "x_unmask"


def check_word_times(wanted: Unmask, bundle: Description) -> None:
    """Raises RequestError where the bundle says that it cannot tell them; engines elsewhere say so when asked."""
    media = getattr(bundle, "media", None)
    if wanted.word_times and media is not None and media.ctc_row_s is None:
        message = "This model's speech encoder does not tell when a word is said; leave `word_times` out."
        raise RequestError(message, param="session.x_unmask.word_times", code="not_supported")


class Unmasking:
    """Of one answer, which may take several canvases. Commits are all told; a slow reader loses guesses.

    `is_behind` says whether much is unread.
    """

    def __init__(self, wanted: Unmask, is_behind: Callable[[], bool]) -> None:
        self._wanted, self._is_behind = wanted, is_behind
        self._canvas = 0
        self._last: Progress | None = None
        self._commits: list[Tokens] = []  # not told yet; all of them are no more than the canvas
        self._words: dict[int, TextToken] = {}  # by their positions
        self._num_told = 0  # words

    def after(self, progress: Progress) -> JsonObject:
        """What there is to see after a step; `progress.text` is told with it."""
        told: JsonObject = {}
        if self._wanted.confidence and progress.text is not None:
            self._words |= _words(progress.commits)
            told = self._new_words([self._words[at] for at in sorted(self._words)], progress.text)
        if self._wanted.every_steps:
            self._last = progress
            self._commits.append(progress.commits)
            if progress.step % self._wanted.every_steps == 0 and not self._is_behind():
                told |= self._seen(progress, progress.guesses)
        return told

    def finished(self, generation: Generation, begins_s: float = 0.0) -> JsonObject:
        """What has not been told of this canvas, whose sound begins then; another one may follow."""
        told: JsonObject = {}
        if self._wanted.confidence and (rest := generation.text_tokens[self._num_told :]):
            told = _words_json(rest)
        if self._wanted.word_times and generation.words:
            told["words"] = [
                {"text": w.text, "start_time": round(begins_s + w.start, 3), "end_time": round(begins_s + w.end, 3)}
                for w in generation.words
            ]
        if self._last is not None and self._commits:
            told |= self._seen(self._last, None)
        self._canvas += 1
        self._last, self._words, self._num_told = None, {}, 0
        return told

    def _new_words(self, words: Sequence[TextToken], text: str) -> JsonObject:
        """Those that `text` has reached and that are not told yet."""
        said, reached = "", 0
        for word in words:
            said += word.text
            if not text.startswith(said):  # a hole before it, or half a word
                break
            reached += 1
        new = words[self._num_told : reached]
        self._num_told = max(self._num_told, reached)
        return _words_json(new) if new else {}

    def _seen(self, progress: Progress, guesses: Tokens | None) -> JsonObject:
        commits, self._commits = self._commits, []
        seen: JsonObject = {
            "canvas": self._canvas,
            "step": progress.step,
            "steps": progress.steps,
            "committed": progress.committed,
            "total": progress.total,
            "commits": tokens_json(_joined(commits), self._wanted.confidence),
        }
        return seen if guesses is None else {**seen, "guesses": tokens_json(guesses, self._wanted.confidence)}


def _words(commits: Tokens) -> dict[int, TextToken]:
    places = zip(commits.positions, commits.texts, commits.confidence, strict=True)
    return {at: TextToken(text, known_confidence(score)) for at, text, score in places if text}


def _words_json(words: Sequence[TextToken]) -> JsonObject:
    return {"tokens": [{"text": word.text, "confidence": word.confidence} for word in words]}


def _joined(commits: Sequence[Tokens]) -> Tokens:
    return Tokens(
        positions=tuple(at for tokens in commits for at in tokens.positions),
        ids=tuple(token for tokens in commits for token in tokens.ids),
        confidence=tuple(score for tokens in commits for score in tokens.confidence),
        texts=tuple(text for tokens in commits for text in tokens.texts),
    )
