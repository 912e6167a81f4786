"""What there is of an answer while it is decoded. Committed tokens are final, so text and speech only ever grow."""

from torch import Tensor

from unmask_engine.answer import split
from unmask_engine.loaded import LoadedBundle
from unmask_engine.prompt import Prepared
from unmask_engine.request import Progress, Tokens
from unmask_engine.state import DecodingState


def progress(bundle: LoadedBundle, prepared: Prepared, state: DecodingState) -> Progress:
    """After a finished step of `state`."""
    plan, preset = prepared.plan, prepared.preset
    grid = bundle.image_grid**2
    answer = split(state.ids.tolist(), bundle.vocabulary, preset.outputs, grid, plan.end_from)
    image: tuple[int, ...] = ()
    if "image" in preset.outputs:
        seen = state.ids.where(~state.masked, state.guesses)
        image = split(seen.tolist(), bundle.vocabulary, preset.outputs, grid, plan.end_from).image
    new = (state.committed_in == state.step - 1).nonzero().flatten()
    guessed = (state.masked & (state.guesses != plan.mask)).nonzero().flatten()
    return Progress(
        step=state.step,
        steps=plan.steps,
        committed=int((~state.masked).sum()),
        total=len(state.ids),
        commits=_tokens(bundle, new, state.ids, state.confidence),
        guesses=_tokens(bundle, guessed, state.guesses, state.guess_confidence),
        text=whole_words(bundle.tokenizer.decode(answer.text)) if "text" in preset.outputs else None,
        audio=answer.audio,
        image=image,
    )


def whole_words(text: str) -> str:
    """The text up to its last white space, which may still turn out to be the end; no half characters."""
    text = text.rstrip("\ufffd")
    words = text.rsplit(maxsplit=1) if text and not text[-1].isspace() else [text, ""]
    return words[0].rstrip() if len(words) == 2 else ""


def _tokens(bundle: LoadedBundle, positions: Tensor, ids: Tensor, confidence: Tensor) -> Tokens:
    codes = (bundle.vocabulary.audio, bundle.vocabulary.image)
    found = ids[positions].tolist()
    return Tokens(
        positions=tuple(positions.tolist()),
        ids=tuple(found),
        confidence=tuple(confidence[positions].tolist()),
        texts=tuple(
            None if any(token in kind for kind in codes) else bundle.tokenizer.decode([token]) for token in found
        ),
    )
