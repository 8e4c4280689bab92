"""The digits world's tokenizers, one token per word: for the language models (T5, LLaMA, BERT) and the Q-Former."""

import json
from collections.abc import Sequence
from pathlib import Path
from string import ascii_lowercase, digits
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from instructblip_jax.datasets.digits.scene import COLOURS, COLUMNS, ROWS
from instructblip_jax.datasets.digits.templates import TEMPLATES

PUNCTUATION = "?,.:!"
CONVERSATION = (
    "a chat between a curious user human and an artificial intelligence assistant the gives helpful detailed polite "
    "answers to user's human's questions"
)
"""The words around questions and answers in conversations (LLaVA's templates v0 and v1)."""


def words() -> list[str]:
    """All words that can occur in instructions and answers of the digits tasks."""
    known = {word for templates in TEMPLATES.values() for text in templates for word in text.split() if "{" not in word}
    rows, columns = set(ROWS[2] + ROWS[3]), set(COLUMNS[2] + COLUMNS[3])
    known |= set(COLOURS) | rows | columns | {f"{row}-{column}" for row in rows for column in columns}
    known |= set(digits) | {"yes", "no", "or", "and", "largest", "smallest"} | set(PUNCTUATION)
    return sorted(known)


def _dump(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write(directory: Path, tokenizer: Tokenizer, config: dict[str, Any]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    _dump(directory / "tokenizer_config.json", config)
    _dump(directory / "special_tokens_map.json", {k: v for k, v in config.items() if k.endswith("_token")})


def _unigram(special: list[str], known: list[str], marks: list[str], blanks: pre_tokenizers.PreTokenizer) -> Tokenizer:
    """A Unigram tokenizer: ``special`` tokens from id 0 on, a token for each word and for each of ``marks``, letters as
    fallback. ``blanks`` cuts a text into words."""
    vocabulary = [(token, 0.0) for token in special] + [("\u2581", -3.0)]
    vocabulary += [(f"\u2581{word}", -4.0) for word in [*known, *marks]]
    vocabulary += [(letter, -9.0) for letter in ascii_lowercase + digits + PUNCTUATION + "-'"]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=special.index("<unk>"), byte_fallback=False))
    tokenizer.normalizer = normalizers.Lowercase()
    isolated = "|".join([f"[{PUNCTUATION}]", *marks])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            blanks,
            pre_tokenizers.Split(Regex(isolated), "isolated"),
            pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="\u2581", prepend_scheme="always")
    return tokenizer


def write_t5(directory: Path) -> Tokenizer:
    """Write a Unigram tokenizer with ``<pad>`` 0, ``</s>`` 1, ``<unk>`` 2, ``<image>`` last; letters as fallback."""
    tokenizer = _unigram(["<pad>", "</s>", "<unk>"], words(), [], pre_tokenizers.WhitespaceSplit())
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"], special_tokens=[("</s>", 1)]
    )
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in ("<pad>", "</s>", "<unk>", "<image>")])
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "model_max_length": 512,
        "truncation_side": "left",
        "clean_up_tokenization_spaces": False,
        "processor_class": "InstructBlipProcessor",
    }
    _write(directory, tokenizer, config)
    return tokenizer


def write_llama(directory: Path, known: Sequence[str] = ()) -> Tokenizer:
    """Write a Unigram tokenizer with LLaMA's ``<unk>`` 0, ``<s>`` 1, ``</s>`` 2, ``<s>`` before every text.

    A line break and ``###``, which end turns in conversations, are tokens too. ``known``: the words; by default those
    of the digits tasks and of conversations.
    """
    known = list(known) or sorted({*words(), *CONVERSATION.split()})
    blanks = pre_tokenizers.Split(Regex("[ \\t]+"), "removed")
    tokenizer = _unigram(["<unk>", "<s>", "</s>"], known, ["\n", "###"], blanks)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["<s>", "$A"], pair=["<s>", "$A", "<s>:1", "$B:1"], special_tokens=[("<s>", 1)]
    )
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": 2048,
        "clean_up_tokenization_spaces": False,
    }
    _write(directory, tokenizer, config)
    return tokenizer


def _wordpiece(added: list[str], known: Sequence[str]) -> tuple[Tokenizer, list[str]]:
    """BERT's WordPiece tokenizer over ``known`` words, and its vocabulary in the order of the ids. ``added``: special
    tokens after it."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = {part for word in known for part in word.replace("-", " - ").split()}
    pieces |= set(ascii_lowercase + digits + PUNCTUATION + "-'")
    vocabulary = special + sorted(pieces) + [f"##{letter}" for letter in ascii_lowercase + digits]
    tokenizer = Tokenizer(models.WordPiece({t: n for n, t in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["[CLS]:0", "$A:0", "[SEP]:0"],
        pair=["[CLS]:0", "$A:0", "[SEP]:0", "$B:1", "[SEP]:1"],
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in [*special, *added]])
    return tokenizer, vocabulary


def _write_wordpiece(directory: Path, added: list[str], more: dict[str, Any], known: Sequence[str] = ()) -> Tokenizer:
    tokenizer, vocabulary = _wordpiece(added, known or words())
    config = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
        "pad_token": "[PAD]",
        "sep_token": "[SEP]",
        "unk_token": "[UNK]",
        "model_max_length": 512,
    }
    _write(directory, tokenizer, config | more)
    (directory / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return tokenizer


def write_bert(directory: Path, known: Sequence[str] = ()) -> Tokenizer:
    """Write a BERT WordPiece tokenizer over the same words, or over the ``known`` ones."""
    return _write_wordpiece(directory, [], {}, known)


def write_qformer(directory: Path) -> Tokenizer:
    """Write the same with ``[DEC]`` declared as in the original."""
    config = {"bos_token": "[DEC]", "truncation_side": "left", "processor_class": "InstructBlipProcessor"}
    return _write_wordpiece(directory, ["[DEC]"], config)
