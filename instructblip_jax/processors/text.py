"""Text -> token ids, straight from a repository's ``tokenizer.json``."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from instructblip_jax.files import read_json


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
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.config = read_json(directory / "tokenizer_config.json")
        self.pad_id = self._special("pad_token", directory)

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

    def encode(self, text: str, max_length: int, *, keep: str) -> np.ndarray:
        """text -> int32 [n], n <= max_length with the special tokens; ``keep`` "start" or "end" of what is too long."""
        encoding = self._tokenizer.encode(text)
        ids, special = np.asarray(encoding.ids, np.int32), np.asarray(encoding.special_tokens_mask, bool)
        extra = len(ids) - max_length
        if extra <= 0:
            return ids
        inner = np.flatnonzero(~special)
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
        """ids -> text without special tokens."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True).strip()
