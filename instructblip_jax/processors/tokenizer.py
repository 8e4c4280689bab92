"""Text -> token ids, straight from a repository's ``tokenizer.json``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models

from instructblip_jax.files import read_json

TIDY = [(f" {mark}", mark) for mark in ".?!,"] + [(" ' ", "'")]
TIDY += [(f" {tail}", tail) for tail in ("n't", "'m", "'s", "'ve", "'re")]
"""What transformers' `clean_up_tokenization_spaces` replaces, in its order."""


def _content(token: Any) -> str | None:
    """A special token of ``tokenizer_config.json``: a text, or an object that holds one."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


def _named(config: Mapping[str, Any]) -> set[str]:
    """The special tokens that ``tokenizer_config.json`` names."""
    tokens = [value for name, value in config.items() if name.endswith("_token")]
    for name in ("additional_special_tokens", "extra_special_tokens"):
        more = config.get(name)
        tokens += more.values() if isinstance(more, dict) else more if isinstance(more, list) else []
    return {content for token in tokens if (content := _content(token))}


class TextTokenizer:
    """One tokenizer. Special tokens stand where its file puts them around a text, and nowhere inside: what people write
    is text, ``</s>`` and ``<image>`` included."""

    def __init__(self, directory: Path):
        """Raises FileNotFoundError or ValueError naming the file."""
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; a fast tokenizer file is needed")
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises a bare Exception
            raise ValueError(f"{path}: not a tokenizer file ({error})") from error
        self._path = path
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.config = read_json(directory / "tokenizer_config.json")
        self.pad_id = self._special("pad_token", directory)
        special = {token.content for token in self._tokenizer.get_added_tokens_decoder().values() if token.special}
        more = {token for token in _named(self.config) - special if self._tokenizer.token_to_id(token) is not None}
        self._tokenizer.add_special_tokens(sorted(more))
        # By id: the library's own skipping misses special tokens that a normalizer rewrites, as LLaMA's does.
        self._skipped = {self._tokenizer.token_to_id(token) for token in special | more}
        self._read_as_text(special | more)
        tidy = self.config.get("clean_up_tokenization_spaces") is True
        self._tidy = tidy and type(self._tokenizer.model).__name__ != "BPE"  # which knows where its spaces are

    def _read_as_text(self, special: set[str]) -> None:
        """Find none of the ``special`` tokens in a text; ids stay as they are."""
        self._tokenizer.encode_special_tokens = True  # the library's name for encoding them like any other text
        raw = read_json(self._path)["model"]
        if isinstance(self._tokenizer.model, models.Unigram):  # which holds them as pieces; an empty one is never found
            pieces = [("" if piece in special else piece, score) for piece, score in raw["vocab"]]
            self._tokenizer.model = models.Unigram(pieces, raw["unk_id"], raw.get("byte_fallback", False))
        elif isinstance(self._tokenizer.model, models.BPE):
            pairs = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in raw["merges"]]
            kept = [pair for pair in pairs if "".join(pair) not in special]
            if len(kept) < len(pairs):  # as where a tokenizer was trained on texts that hold them
                form = {name: x for name, x in raw.items() if name not in ("type", "vocab", "merges") and x is not None}
                self._tokenizer.model = models.BPE(raw["vocab"], kept, **form)

    def _special(self, name: str, directory: Path) -> int:
        token = _content(self.config.get(name))
        found = None if token is None else self._tokenizer.token_to_id(token)
        if found is None:
            raise ValueError(f"{directory / 'tokenizer_config.json'}: {name} {token!r} is not in tokenizer.json")
        return found

    def end_id(self, directory: Path) -> int:
        """The id of the end token. Raises ValueError where there is none."""
        return self._special("eos_token", directory)

    def check_fits(self, rows: int | None, field: str) -> None:
        """Raise ValueError if a token's id lies beyond an embedding table of so many rows, which ``field`` names."""
        words, largest = self._tokenizer.get_vocab(with_added_tokens=True), -1
        if words:
            word, largest = max(words.items(), key=lambda item: item[::-1])
        if rows is not None and largest >= rows:
            raise ValueError(
                f"{self._path}: token {word!r} has id {largest}, but the embedding has {rows} rows ({field}): this "
                "tokenizer is another model's, or the weights were resized without their configuration"
            )

    def encode(self, text: str, max_length: int | None = None, *, special: bool = True) -> np.ndarray:
        """text -> int32 [n], with its special tokens at most ``max_length`` long: a longer text loses its beginning.

        ``special=False`` leaves begin and end tokens out.
        """
        encoding = self._tokenizer.encode(text, add_special_tokens=special)
        ids, special_ids = np.asarray(encoding.ids, np.int32), np.asarray(encoding.special_tokens_mask, bool)
        extra = 0 if max_length is None else len(ids) - max_length
        return np.delete(ids, np.flatnonzero(~special_ids)[:extra]) if extra > 0 else ids

    def unknown(self, text: str) -> list[str]:
        """The words of ``text`` that hold something this vocabulary does not know."""
        token = _content(self.config.get("unk_token"))
        found = None if token is None else self._tokenizer.token_to_id(token)
        # By id: a Unigram tokenizer's tokens show the text itself where it does not know it.
        return [word for word in text.split() if found in self._tokenizer.encode(word, add_special_tokens=False).ids]

    def decode(self, ids: Sequence[int]) -> str:
        """ids -> text without special tokens, and without spaces before punctuation if the configuration says so."""
        kept = [int(i) for i in ids if int(i) not in self._skipped]
        text = self._tokenizer.decode(kept, skip_special_tokens=False)
        for spaced, plain in TIDY if self._tidy else ():
            text = text.replace(spaced, plain)
        return text.strip()

    def settled(self, text: str) -> str:
        """What of a decoded beginning stays as it is: no half character, no last word that tidying may join."""
        text = text.rstrip("\ufffd")
        return text.rpartition(" ")[0] if self._tidy else text
