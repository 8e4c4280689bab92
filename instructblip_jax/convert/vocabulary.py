"""Tokenizers of an assembled directory: those of its parts, with the tokens that its system adds."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, processors

from instructblip_jax.files import read_json, write_json

FILES = ("tokenizer.json", "tokenizer_config.json")
IMAGE, DEC, LLAMA_PAD, LLAMA_END, PAD = "<image>", "[DEC]", "[PAD]", "</s>", "<pad>"
CHUNK = "<|endofchunk|>"
BERT_TOKENS = {"cls": "[CLS]", "mask": "[MASK]", "pad": "[PAD]", "sep": "[SEP]", "unk": "[UNK]"}


class Vocabulary:
    """A tokenizer and its ``tokenizer_config.json``, changed in memory and written at the end."""

    def __init__(self, directory: Path, processor_class: str):
        """``processor_class``: transformers' class for it. Raises FileNotFoundError or ValueError naming the file."""
        self.path = directory / FILES[0]
        if not self.path.is_file():
            raise FileNotFoundError(
                f"{self.path}: no such file; transformers' AutoTokenizer makes one: from_pretrained, save_pretrained"
            )
        try:
            self.tokenizer = Tokenizer.from_file(str(self.path))
        except Exception as error:  # the library raises a bare Exception
            raise ValueError(f"{self.path}: not a tokenizer file ({error})") from error
        self.config: dict[str, Any] = read_json(directory / FILES[1])
        self.config["processor_class"] = processor_class

    @property
    def size(self) -> int:
        """The largest id + 1."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def add(self, token: str) -> int:
        """Add a special token if it is missing; returns its id."""
        self.tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        found = self.tokenizer.get_vocab(with_added_tokens=True)[token]
        if "added_tokens_decoder" in self.config:
            entry = {"content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
            self.config["added_tokens_decoder"].setdefault(str(found), entry | {"special": True})
        return found

    def id_of(self, name: str) -> int:
        """The id of ``pad_token``, ``cls_token`` ... Raises ValueError if there is none."""
        value = self.config.get(name)
        token = value.get("content") if isinstance(value, dict) else value
        found = self.tokenizer.token_to_id(token) if isinstance(token, str) else None
        if found is None:
            raise ValueError(f"{self.path.with_name(FILES[1])}: {name} {token!r} is not in {FILES[0]}")
        return found

    def write(self, directory: Path) -> None:
        """Write both files."""
        directory.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(str(directory / FILES[0]))
        write_json(directory / FILES[1], self.config)


def for_language_model(directory: Path, family: str, processor_class: str, *, mark: bool = True) -> Vocabulary:
    """A language model's tokenizer with ``<image>``, or without this ``mark``.

    LLaMA's gets a padding token, and ``</s>`` begins every text, as in the original's training. Raises
    FileNotFoundError or ValueError naming the file.
    """
    vocabulary = Vocabulary(directory, processor_class)
    if family == "llama":
        end = vocabulary.tokenizer.token_to_id(LLAMA_END)
        if end is None:
            raise ValueError(
                f"{vocabulary.path}: has no token {LLAMA_END!r}, with which every text of LLaMA begins and ends"
            )
        vocabulary.add(LLAMA_PAD)
        vocabulary.tokenizer.post_processor = processors.TemplateProcessing(
            single=[LLAMA_END, "$A"],
            pair=[LLAMA_END, "$A", f"{LLAMA_END}:1", "$B:1"],
            special_tokens=[(LLAMA_END, end)],
        )
        vocabulary.config |= {f"{name}_token": LLAMA_END for name in ("bos", "eos", "unk")}
        vocabulary.config |= {"pad_token": LLAMA_PAD, "add_bos_token": True, "add_eos_token": False}
    if mark:
        vocabulary.add(IMAGE)
    vocabulary.id_of("pad_token")
    return vocabulary


def newline_ends(vocabulary: Vocabulary) -> dict[str, int]:
    """OPT's text_config fields in BLIP-2: a newline ends a caption (the original's code; id 50118 in OPT's tokenizer).

    Empty if the tokenizer has no separate token for it.
    """
    ids = vocabulary.tokenizer.encode("\n", add_special_tokens=False).ids
    return {"eos_token_id": ids[0]} if len(ids) == 1 else {}


def with_image(directory: Path, processor_class: str) -> Vocabulary:
    """A language model's tokenizer with ``<image>`` and ``<pad>``, and otherwise unchanged, as in llava-hf.

    Raises FileNotFoundError or ValueError naming the file.
    """
    vocabulary = Vocabulary(directory, processor_class)
    vocabulary.add(IMAGE)
    vocabulary.add(PAD)
    vocabulary.config |= {"pad_token": PAD, "padding_side": "left", "image_token": IMAGE}
    vocabulary.config["extra_special_tokens"] = {"image_token": IMAGE}
    vocabulary.id_of("eos_token")
    return vocabulary


def with_mark(directory: Path, *others: str) -> Vocabulary:
    """A language model's tokenizer with ``others`` and ``<image>`` after its vocabulary, and a token of its own as
    padding.

    Raises FileNotFoundError or ValueError naming the file.
    """
    vocabulary = Vocabulary(directory, "")
    del vocabulary.config["processor_class"]  # transformers has none
    named = (name for name in ("pad_token", "unk_token", "eos_token") if vocabulary.config.get(name) is not None)
    vocabulary.config["pad_token"] = vocabulary.config[next(named, "eos_token")]
    vocabulary.id_of("pad_token")
    for token in (*others, IMAGE):
        vocabulary.add(token)
    return vocabulary


def with_boundaries(directory: Path, tokens: Iterable[str]) -> Vocabulary:
    """A tokenizer with ``<pad>``, if it has no padding token, and with the ``tokens`` around an image.

    Raises FileNotFoundError or ValueError naming the file.
    """
    vocabulary = Vocabulary(directory, "Kosmos2Processor")
    if vocabulary.config.get("pad_token") is None:
        vocabulary.add(PAD)
        vocabulary.config["pad_token"] = PAD
    for token in tokens:
        vocabulary.add(token)
    for name in ("bos", "eos", "pad"):
        vocabulary.id_of(f"{name}_token")
    return vocabulary


def for_qformer(
    directory: Path, rows: int, processor_class: str = "InstructBlipProcessor", *, truncation: str = "left"
) -> Vocabulary:
    """BERT's tokenizer with ``[DEC]``, declared as the begin token but never added to a text, as in the original; or
    that of a Q-Former's first stage, which already has it.

    ``rows``: number of rows of the word embedding without that of ``[DEC]``, which must be the next id after them:
    raises ValueError otherwise.
    """
    vocabulary = Vocabulary(directory, processor_class)
    size, known = vocabulary.size, vocabulary.tokenizer.token_to_id(DEC) is not None
    if size != rows + known or vocabulary.add(DEC) != rows:
        raise ValueError(f"{vocabulary.path}: has {size} tokens, but the word embedding has {rows + known} rows")
    vocabulary.config = {f"{name}_token": token for name, token in BERT_TOKENS.items()} | vocabulary.config
    vocabulary.config |= {"tokenizer_class": "BertTokenizer", "bos_token": DEC, "truncation_side": truncation}
    for name in BERT_TOKENS:
        vocabulary.id_of(f"{name}_token")
    return vocabulary


def for_pairs(directory: Path, rows: int) -> Vocabulary:
    """BERT's tokenizer for systems that read images and texts; ``[SEP]`` ends generated text.

    ``rows``: number of rows of the word embedding. Raises ValueError if the tokenizer has more tokens.
    """
    vocabulary = Vocabulary(directory, "")
    del vocabulary.config["processor_class"]  # transformers has none
    if vocabulary.size > rows:
        raise ValueError(f"{vocabulary.path}: has {vocabulary.size} tokens, but the word embedding has {rows} rows")
    vocabulary.config = {f"{name}_token": token for name, token in BERT_TOKENS.items()} | vocabulary.config
    vocabulary.config |= {"tokenizer_class": "BertTokenizer", "eos_token": vocabulary.config["sep_token"]}
    for name in BERT_TOKENS:
        vocabulary.id_of(f"{name}_token")
    return vocabulary
