"""Text -> token ids and back, with a repository's ``tokenizer.json``."""

import functools
import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models

from instructblip_jax.files import read_json

TIDY = [(f" {mark}", mark) for mark in ".?!,"] + [(" ' ", "'")]
TIDY += [(f" {tail}", tail) for tail in ("n't", "'m", "'s", "'ve", "'re")]
"""The replacements of transformers' `clean_up_tokenization_spaces`, in its order."""


def _content(token: Any) -> str | None:
    """The text of a special token in ``tokenizer_config.json``, which is a string or an object with one."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


def _named(config: Mapping[str, Any]) -> set[str]:
    """The texts of all special tokens in ``tokenizer_config.json``."""
    tokens = [value for name, value in config.items() if name.endswith("_token")]
    for name in ("additional_special_tokens", "extra_special_tokens"):
        more = config.get(name)
        tokens += more.values() if isinstance(more, dict) else more if isinstance(more, list) else []
    return {content for token in tokens if (content := _content(token))}


class TextTokenizer:
    """A tokenizer that never finds special tokens within a text: user input such as ``</s>`` or ``<image>`` stays text.

    Special tokens are only added around a text, as ``tokenizer.json`` defines it.
    """

    def __init__(self, directory: Path, tags: Collection[str] = (), *, bare: bool = False):
        """``tags``: tokens that only a system writes, which are special here even if not in the files. ``bare``: omit
        "▁" before the texts of `joined` if tokenizer_config.json names LLaMA's tokenizer without ``"legacy": true``:
        transformers 5 rebuilds this tokenizer from its vocabulary, and then tokenizes texts after special tokens so.

        Raises FileNotFoundError or ValueError naming the file.
        """
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
        made_anew = self.config.get("tokenizer_class") in ("LlamaTokenizer", "LlamaTokenizerFast")
        self._bare = bare and made_anew and self.config.get("legacy") is not True
        self.pad_id = self._special("pad_token", directory)
        special = {token.content for token in self._tokenizer.get_added_tokens_decoder().values() if token.special}
        named = (_named(self.config) | set(tags)) - special
        more = {token for token in named if self._tokenizer.token_to_id(token) is not None}
        self._unlisted = sorted(more)
        self._tokenizer.add_special_tokens(self._unlisted)
        # By id: the library's skip_special_tokens misses special tokens that a normalizer such as LLaMA's rewrites.
        self._skipped = {self._tokenizer.token_to_id(token) for token in special | more}
        self._read_as_text(special | more)
        tidy = self.config.get("clean_up_tokenization_spaces") is True
        self._tidy = tidy and type(self._tokenizer.model).__name__ != "BPE"  # BPE decodes its own spaces exactly

    def _read_as_text(self, special: set[str]) -> None:
        """Make the tokenizer split ``special`` tokens in a text like any other text; all ids stay the same."""
        self._tokenizer.encode_special_tokens = True  # the library's switch to encode them like any other text
        raw = read_json(self._path)["model"]
        if isinstance(self._tokenizer.model, models.Unigram):  # has them as pieces; an empty piece never matches
            pieces = [("" if piece in special else piece, score) for piece, score in raw["vocab"]]
            self._tokenizer.model = models.Unigram(pieces, raw["unk_id"], raw.get("byte_fallback", False))
        elif isinstance(self._tokenizer.model, models.BPE):
            pairs = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in raw["merges"]]
            kept = [pair for pair in pairs if "".join(pair) not in special]
            if len(kept) < len(pairs):  # the tokenizer was trained on texts that contain them
                form = {name: x for name, x in raw.items() if name not in ("type", "vocab", "merges") and x is not None}
                self._tokenizer.model = models.BPE(raw["vocab"], kept, **form)

    def _special(self, name: str, directory: Path) -> int:
        token = _content(self.config.get(name))
        found = None if token is None else self._tokenizer.token_to_id(token)
        if found is None:
            raise ValueError(f"{directory / 'tokenizer_config.json'}: {name} {token!r} is not in tokenizer.json")
        return found

    def end_id(self, directory: Path) -> int:
        """The id of the end token; BERT's is its separator. Raises ValueError if there is none."""
        ends = _content(self.config.get("eos_token")) is not None or "sep_token" not in self.config
        return self._special("eos_token" if ends else "sep_token", directory)

    def check_fits(self, rows: int | None, field: str) -> None:
        """Raise ValueError if a token id exceeds an embedding table of ``rows`` rows; ``field`` names that number."""
        words, largest = self._tokenizer.get_vocab(with_added_tokens=True), -1
        if words:
            word, largest = max(words.items(), key=lambda item: item[::-1])
        if rows is not None and largest >= rows:
            raise ValueError(
                f"{self._path}: token {word!r} has id {largest}, but the embedding has {rows} rows ({field}): this "
                "tokenizer belongs to another model, or the weights were resized without updating the configuration"
            )

    def encode(self, text: str, max_length: int | None = None, *, special: bool = True) -> np.ndarray:
        """Token ids of a text, int32 [n], special tokens included unless ``special`` is False.

        A text of more than ``max_length`` ids loses its beginning, but keeps its special tokens.
        """
        encoding = self._tokenizer.encode(text, add_special_tokens=special)
        ids, special_ids = np.asarray(encoding.ids, np.int32), np.asarray(encoding.special_tokens_mask, bool)
        extra = 0 if max_length is None else len(ids) - max_length
        return np.delete(ids, np.flatnonzero(~special_ids)[:extra]) if extra > 0 else ids

    def joined(self, pieces: Sequence[str | int]) -> tuple[np.ndarray, np.ndarray]:
        """Texts and ids of special tokens, in order -> ids int32 [n], and the end of each token, int32 [n]: the number
        of characters of the pieces up to there, counting an id as one.

        Consecutive texts are tokenized as one, as Hugging Face does between special tokens. The tokens that begin a
        text are at the start, and end at 0.
        """
        begin = self._tokenizer.encode("a")
        ids = begin.ids[: begin.special_tokens_mask.index(0)]
        ends, at = [0] * len(ids), 0
        for is_text, group in itertools.groupby(pieces, key=lambda piece: isinstance(piece, str)):
            run = list(group)
            if is_text:
                text = "".join(map(str, run))
                encoding = (self._later if at or self._bare else self._tokenizer).encode(text, add_special_tokens=False)
                ids += encoding.ids
                ends += [at + end for _, end in encoding.offsets]
                at += len(text)
            else:
                ids += [int(piece) for piece in run]
                ends += range(at + 1, at + len(run) + 1)
                at += len(run)
        return np.array(ids, np.int32), np.array(ends, np.int32)

    @functools.cached_property
    def _later(self) -> Tokenizer:
        """The tokenizer for texts after a special token: in some files "▁" only precedes the first text."""
        form = json.loads(self._tokenizer.to_str())
        if self._bare:
            metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
            form |= {"normalizer": None, "pre_tokenizer": metaspace}
        found = form["pre_tokenizer"] or {}
        steps = [one for one in (found, *found.get("pretokenizers", ())) if one.get("prepend_scheme") == "first"]
        if not steps:
            return self._tokenizer
        for step in steps:
            step["prepend_scheme"] = "never"
        later = Tokenizer.from_str(json.dumps(form))
        later.encode_special_tokens = True
        return later

    def ready(self, text: str) -> np.ndarray:
        """Token ids of a text in which special tokens are recognised, int32 [n]: for ready prompts, never for user
        text."""
        return np.array(self._reader.encode(text).ids, np.int32)

    @functools.cached_property
    def _reader(self) -> Tokenizer:
        reader = Tokenizer.from_file(str(self._path))
        reader.no_padding()
        reader.no_truncation()
        reader.add_special_tokens(self._unlisted)
        return reader

    def id_of(self, token: str) -> int | None:
        """The id of a token, None if there is none."""
        return self._tokenizer.token_to_id(token)

    def token(self, number: int) -> str:
        """The text of the token with the id ``number``. Raises ValueError if there is none."""
        found = self._tokenizer.id_to_token(number)
        if found is None:
            raise ValueError(f"{self._path}: no token has the id {number}")
        return found

    def unknown(self, text: str) -> list[str]:
        """The words of ``text`` that contain the unknown token."""
        token = _content(self.config.get("unk_token"))
        found = None if token is None else self._tokenizer.token_to_id(token)
        # By id: the tokens of a Unigram tokenizer show the original text instead of the unknown token.
        return [word for word in text.split() if found in self._tokenizer.encode(word, add_special_tokens=False).ids]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens, and without spaces before punctuation if the configuration asks."""
        kept = [int(i) for i in ids if int(i) not in self._skipped]
        text = self._tokenizer.decode(kept, skip_special_tokens=False)
        for spaced, plain in TIDY if self._tidy else ():
            text = text.replace(spaced, plain)
        return text.strip()

    def settled(self, text: str) -> str:
        """The part of a partially decoded text that further ids cannot change: it excludes an incomplete character and,
        if spaces are tidied, the last word."""
        text = text.rstrip("\ufffd")
        return text.rpartition(" ")[0] if self._tidy else text
