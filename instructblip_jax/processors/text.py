"""Text -> token ids, straight from a repository's ``tokenizer.json``."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from instructblip_jax.files import read_json

TIDY = [(f" {mark}", mark) for mark in ".?!,"] + [(" ' ", "'")]
TIDY += [(f" {tail}", tail) for tail in ("n't", "'m", "'s", "'ve", "'re")]
"""What transformers' `clean_up_tokenization_spaces` replaces, in its order."""


class TextTokenizer:
    """One tokenizer: special tokens as its file says, cut to a length on a side, ids of its own special tokens."""

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
        # By id: the library's own skipping misses special tokens that a normalizer rewrites, as LLaMA's does.
        self._skipped = {i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
        tidy = self.config.get("clean_up_tokenization_spaces") is True
        self._tidy = tidy and type(self._tokenizer.model).__name__ != "BPE"  # which knows where its spaces are

    def _special(self, name: str, directory: Path) -> int:
        value = self.config.get(name)
        token = value.get("content") if isinstance(value, dict) else value
        found = self._tokenizer.token_to_id(token) if isinstance(token, str) else None
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
            word, largest = max(words.items(), key=lambda item: item[1])
        if rows is not None and largest >= rows:
            raise ValueError(
                f"{self._path}: token {word!r} has id {largest}, but the embedding has {rows} rows ({field}): this "
                "tokenizer is another model's, or the weights were resized without their configuration"
            )

    def encode(self, text: str, max_length: int | None, *, keep: str, special: bool = True) -> np.ndarray:
        """text -> int32 [n], n <= max_length with the special tokens; ``keep`` "start" or "end" of what is too long.

        ``special=False`` leaves begin and end tokens out.
        """
        encoding = self._tokenizer.encode(text, add_special_tokens=special)
        ids, special_ids = np.asarray(encoding.ids, np.int32), np.asarray(encoding.special_tokens_mask, bool)
        extra = 0 if max_length is None else len(ids) - max_length
        if extra <= 0:
            return ids
        inner = np.flatnonzero(~special_ids)
        cut = inner[:extra] if keep == "end" else inner[len(inner) - extra :]
        return np.delete(ids, cut)

    def unknown(self, text: str) -> list[str]:
        """The words of ``text`` that hold something this vocabulary does not know."""
        unk = self.config.get("unk_token")
        token = unk.get("content") if isinstance(unk, dict) else unk
        found = self._tokenizer.token_to_id(token) if isinstance(token, str) else None
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
