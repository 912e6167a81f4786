"""`unmask check`: does a bundle hold what its description says? Reads headers, no weights."""

from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path

from tokenizers import Tokenizer

from unmask_engine.bundle import Bundle, BundleError, CodeTokens, ComponentName, load_bundle
from unmask_engine.checkpoint import mismatches, stored_tensors
from unmask_engine.components import BUILDERS, build_component
from unmask_engine.models.speech_frontend import FEATURE_SIZE, read_cmvn


@dataclass(frozen=True)
class ComponentReport:
    name: str
    summary: str
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class BundleReport:
    name: str
    path: str
    components: tuple[ComponentReport, ...]

    @property
    def ok(self) -> bool:
        return not any(component.problems for component in self.components)


def check_bundle(path_or_name: str | Path) -> BundleReport:
    """Every mismatch of every component; raises BundleError only where the description itself cannot be read."""
    bundle = load_bundle(path_or_name)
    return BundleReport(bundle.name, str(bundle.path), tuple(_check(bundle, name) for name in bundle.components))


def _check(bundle: Bundle, name: ComponentName) -> ComponentReport:
    if bundle.component(name).optional and not bundle.has(name):
        return ComponentReport(name, "not there; optional")
    try:
        if name in BUILDERS:
            return _check_weights(bundle, name)
        if name == "text_tokenizer":
            return _check_tokens(bundle)
        return _check_cmvn(bundle)
    except BundleError as error:
        return ComponentReport(name, "unusable", (str(error),))


def _check_weights(bundle: Bundle, name: ComponentName) -> ComponentReport:
    files = bundle.files(name)
    stored = stored_tensors(files)
    problems = mismatches(build_component(bundle, name), stored, bundle.component(name).ignored_keys)
    values = sum(prod(tensor.shape) for tensor in stored.values())
    types = Counter(tensor.dtype for tensor in stored.values())
    summary = f"{len(stored)} tensors, {values / 1e6:.1f} M values, " + ", ".join(sorted(types))
    return ComponentReport(name, summary, problems)


def _check_tokens(bundle: Bundle) -> ComponentReport:
    (file,) = bundle.files("text_tokenizer")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise BundleError(f"{file} is not a tokenizer.json: {error}") from None
    tokens = bundle.tokens
    problems = [
        f"the vocabulary lacks {token}, the bundle's {role} token"
        for role, token in tokens.special.items()
        if tokenizer.token_to_id(token) is None
    ]
    problems += _check_codes(tokenizer, tokens.audio) + _check_codes(tokenizer, tokens.image)
    size = tokenizer.get_vocab_size()
    rows = build_component(bundle, "backbone").get_parameter("lm_head.weight").shape[0]
    if size > rows:
        problems.append(f"the vocabulary has {size} tokens, the model's head only {rows}")
    return ComponentReport("text_tokenizer", f"{size} tokens", tuple(problems))


def _check_codes(tokenizer: Tokenizer, codes: CodeTokens) -> list[str]:
    """Codes are addressed by counting on from the first, so their ids must be consecutive."""
    if "0" not in codes.first:
        return [f"{codes.first}, the first of {codes.count} codes, has no 0 in its name"]
    first = tokenizer.token_to_id(codes.first)
    if first is None:
        return [f"the vocabulary lacks {codes.first}"]
    wrong = [
        name for i in range(codes.count) if tokenizer.token_to_id(name := codes.first.replace("0", str(i))) != first + i
    ]
    return [f"{len(wrong)} of {codes.count} codes are not where they belong, {wrong[0]} first"] if wrong else []


def _check_cmvn(bundle: Bundle) -> ComponentReport:
    (file,) = bundle.files("cmvn")
    try:
        shift, _ = read_cmvn(file)
    except ValueError as error:
        raise BundleError(str(error)) from None
    wrong = len(shift) != FEATURE_SIZE
    problems = (f"{file} normalises {len(shift)} values, the front end makes {FEATURE_SIZE}",) if wrong else ()
    return ComponentReport("cmvn", f"{len(shift)} values", problems)
