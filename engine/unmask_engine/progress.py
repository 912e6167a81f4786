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
    place = prepared.place
    return Progress(
        step=place.step + state.step,
        steps=place.step + plan.steps + place.later_steps,
        committed=place.position + int((~state.masked).sum()) + place.later_pins,
        total=place.position + len(state.ids) + place.later_positions,
        commits=_tokens(bundle, new, state.ids, state.confidence, place.position),
        guesses=_tokens(bundle, guessed, state.guesses, state.guess_confidence, place.position),
        text=whole_words(bundle.tokenizer.decode(answer.text)) if "text" in preset.outputs else None,
        audio=answer.audio,
        image=image,
    )


def whole_words(text: str) -> str:
    """The text up to its last white space, which may still turn out to be the end; no half characters."""
    text = text.rstrip("\ufffd")
    words = text.rsplit(maxsplit=1) if text and not text[-1].isspace() else [text, ""]
    return words[0].rstrip() if len(words) == 2 else ""


def _tokens(bundle: LoadedBundle, positions: Tensor, ids: Tensor, confidence: Tensor, first: int) -> Tokens:
    """`first` is where position 0 stands in the request's whole canvas."""
    codes = (bundle.vocabulary.audio, bundle.vocabulary.image)
    found = ids[positions].tolist()
    return Tokens(
        positions=tuple((positions + first).tolist()),
        ids=tuple(found),
        confidence=tuple(confidence[positions].tolist()),
        texts=tuple(
            None if any(token in kind for kind in codes) else bundle.tokenizer.decode([token]) for token in found
        ),
    )
