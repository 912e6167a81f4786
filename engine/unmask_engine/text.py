"""Text to ids and back, and the chat template.

Source: reference/model.md "Tokens" (template, added tokens) and golden section `prompts`.

**Who may write special tokens.** A template may: its `<|im_end|>` becomes one id. A caller's text may not: the same
characters in it are ordinary text. Instead of altering the caller's characters, the template alone is searched for
special tokens; the text between two of them, with the caller's text put in, is then encoded by a second tokenizer that
has no added tokens. Added tokens split a text before BPE ever sees it, so this gives exactly the ids of encoding the
whole rendered prompt, merges across the border of the caller's text included, whenever that text holds no specials.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer


def render_chat(messages: Iterable[tuple[str, str]]) -> str:
    """(role, content) turns as the model was trained to read them, ending where the assistant's answer begins.

    There is no default system message (golden `prompts`; the published tokenizer_config.json would add one).
    """
    turns = [f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in messages]
    return "".join(turns) + "<|im_start|>assistant\n"


class TextTokenizer:
    """Byte-level BPE from a Hugging Face `tokenizer.json`."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ValueError(f"no tokenizer at {path}")
        self.path = path
        definition = path.read_text(encoding="utf-8")
        self._tokenizer: Tokenizer = Tokenizer.from_str(definition)
        self._plain: Tokenizer = Tokenizer.from_str(json.dumps({**json.loads(definition), "added_tokens": []}))
        self._added = frozenset(self._tokenizer.get_added_tokens_decoder())

    def encode(self, text: str) -> list[int]:
        """Ids of trusted text: special tokens in it become their ids."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_plain(self, text: str) -> list[int]:
        """Ids of anyone's text: never the id of an added token, whatever it spells."""
        return self._plain.encode(text, add_special_tokens=False).ids

    def encode_template(self, template: str, slots: Mapping[str, str]) -> list[int]:
        """Ids of a trusted template whose slots (`{"{text}": ...}`) take anyone's text; see the module docstring."""
        ids: list[int] = []
        done = 0  # characters of the template already encoded
        encoding = self._tokenizer.encode(template, add_special_tokens=False)
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token in self._added:
                ids += self.encode_plain(_fill(template[done:start], slots))
                ids.append(token)
                done = end
        return ids + self.encode_plain(_fill(template[done:], slots))

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Text of ids. `skip_special` drops what the tokenizer file calls special; media codes stay as names."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=skip_special)

    def id_of(self, token: str) -> int:
        """Id of one whole token; `ValueError` if the vocabulary lacks it."""
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise ValueError(f"{self.path}: the vocabulary has no token {token!r}")
        return found


def _fill(text: str, slots: Mapping[str, str]) -> str:
    """All slots in one pass, so that what fills one slot is never searched for another."""
    if not slots:
        return text
    names = "|".join(re.escape(slot) for slot in slots)
    return re.sub(names, lambda found: slots[found[0]], text)
