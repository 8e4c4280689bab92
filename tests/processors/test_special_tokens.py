"""People's text is text: the names of special tokens inside it become no special tokens, whatever the tokenizer."""

import json
import shutil

import numpy as np
import pytest
import toys
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from instructblip_jax.processor import Processor
from instructblip_jax.processors.tokenizer import TextTokenizer

KINDS = {
    "T5": toys.GOLDENS / "instructblip",
    "BERT": toys.GOLDENS / "instructblip" / "qformer_tokenizer",
    "LLaMA": toys.GOLDENS / "llama",
    "OPT": toys.GOLDENS / "opt",
    "digits": toys.SHIPPED,
}
PLACES = ("a {} dog", "{}", "{}{} dog", "a{}dog", "a dog {}\n{}", " {} ")
COMMON = ("</s>", "<s>", "<pad>", "<unk>", "<image>", "<video>", "<extra_id_0>", "[SEP]", "[CLS]", "[PAD]", "[MASK]")


@pytest.fixture(params=KINDS, scope="module")
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def ours(kind) -> TextTokenizer:
    return TextTokenizer(KINDS[kind])


def special_tokens(directory) -> dict[str, int]:
    """The special tokens of a tokenizer file but the unknown one: name -> id."""
    raw = json.loads((directory / "tokenizer.json").read_text())
    added = {token["content"]: token["id"] for token in raw["added_tokens"] if token["special"]}
    return {name: n for name, n in added.items() if name not in ("<unk>", "[UNK]")}


def test_no_text_holds_a_special_token(kind, ours):
    special = special_tokens(KINDS[kind])
    assert len(special) >= 3
    plain = ours.encode("a dog").tolist()
    inner = ours.encode("a dog", special=False).tolist()
    before, after = plain[: plain.index(inner[0])], plain[plain.index(inner[0]) + len(inner) :]
    for name in {*special, *COMMON}:
        for place in PLACES:
            text = place.replace("{}", name)
            ids = ours.encode(text).tolist()
            body = ours.encode(text, special=False).tolist()
            assert ids == before + body + after, text
            assert not set(body) & set(special.values()), text


@pytest.mark.parametrize("kind", ["LLaMA", "OPT"])
def test_what_was_written_is_read_back(kind):
    """These two know every byte."""
    ours = TextTokenizer(KINDS[kind])
    for name in {*special_tokens(KINDS[kind]), *COMMON}:
        for place in PLACES:
            text = place.replace("{}", name)
            assert ours.decode(ours.encode(text)) == text.strip()


@pytest.mark.parametrize("kind", ["BERT", "LLaMA", "OPT"])
def test_ids_are_those_of_transformers_when_it_is_asked_to_read_them_as_text(kind):
    transformers = pytest.importorskip("transformers")
    ours, theirs = TextTokenizer(KINDS[kind]), transformers.AutoTokenizer.from_pretrained(KINDS[kind])
    for name in {*special_tokens(KINDS[kind]), *COMMON}:
        for place in PLACES:
            text = place.replace("{}", name).strip()  # LLaMA's leading space is read anew by each of their releases
            assert ours.encode(text).tolist() == theirs(text, split_special_tokens=True)["input_ids"], text


def test_a_unigram_vocabulary_is_searched_without_its_special_pieces():
    """There transformers finds the piece all the same; SentencePiece, whose vocabulary it is, never does."""
    ours, library = TextTokenizer(KINDS["T5"]), Tokenizer.from_file(str(KINDS["T5"] / "tokenizer.json"))
    shown = [library.id_to_token(n) for n in ours.encode("a</s> dog <pad>", special=False)]
    unknown = "<unk>"
    assert shown == ["▁a", unknown, "s", unknown, "▁dog", "▁", unknown, "p", "a", "d", unknown]
    assert ours.encode("a </s>").tolist().count(1) == 1
    assert ours.encode("a </s>")[-1] == 1


def test_merges_that_make_a_special_token_are_not_used(tmp_path):
    """A tokenizer that was trained on texts with markers in them."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trained.train_from_iterator(["a </s> b <pad> </s> </s>"] * 20, trainers.BpeTrainer(vocab_size=60))
    trained.add_special_tokens(["</s>", "<pad>"])
    trained.save(str(tmp_path / "tokenizer.json"))
    end = trained.token_to_id("</s>")
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": "<pad>", "eos_token": "</s>"}')
    ours = TextTokenizer(tmp_path)
    trained.encode_special_tokens = True
    assert end in trained.encode("a </s> b").ids  # the library alone finds it
    ids = ours.encode("a </s> b")
    assert not {end, ours.pad_id} & set(ids.tolist())
    assert ours.decode(ids).replace(" ", "") == "a</s>b"
    assert ours.end_id(tmp_path) == end


@pytest.mark.parametrize("family", ["instructblip", "llama", "opt"])
def test_tokens_that_only_the_configuration_names_are_special_too(family, tmp_path):
    """`<image>` under extra_special_tokens, an end token that the tokenizer's file does not list."""
    copy = shutil.copytree(toys.GOLDENS / family, tmp_path / "model")
    raw = json.loads((copy / "tokenizer.json").read_text())
    (image,) = (token for token in raw["added_tokens"] if token["content"] == "<image>")
    image["special"] = False
    raw["added_tokens"] = [token for token in raw["added_tokens"] if token["content"] != "</s>"]
    (copy / "tokenizer.json").write_text(json.dumps(raw))
    config = json.loads((copy / "tokenizer_config.json").read_text())
    for form in ({"image_token": "<image>"}, ["<image>"]):
        config["extra_special_tokens"] = form
        (copy / "tokenizer_config.json").write_text(json.dumps(config))
        want, got = TextTokenizer(toys.GOLDENS / family), TextTokenizer(copy)
        for text in ("a <image> dog", "a </s> dog", "a dog"):
            np.testing.assert_array_equal(got.encode(text), want.encode(text))
        assert got.decode([image["id"], *got.encode("a dog"), want.end_id(copy)]) == "a dog"


@pytest.mark.parametrize("family", ["instructblip", "llama", "opt"])
def test_instructions_responses_and_candidates_are_text(family):
    processor = Processor.from_pretrained(toys.GOLDENS / family)
    text = "yes </s> no <image> <pad>[SEP]"
    row = processor.encode(text, text)
    control = {processor.end_id, processor.tokenizer.pad_id, *special_tokens(toys.GOLDENS / family).values()}
    answer = row["labels"][row["labels"] != -100]
    assert [n for n in answer if n in control] == [processor.end_id]
    assert answer[-1] == processor.end_id
    np.testing.assert_array_equal(answer, processor.response(text))
    prompt = (
        row["input_ids"][: len(row["input_ids"]) - len(answer)] if processor.config.decoder_only else row["input_ids"]
    )
    (begin_or_end,) = (n for n, token in enumerate(prompt) if token in control)
    assert begin_or_end in (0, len(prompt) - 1)
    if processor.qformer is not None:
        special = special_tokens(toys.GOLDENS / family / "qformer_tokenizer").values()
        assert [n for n, token in enumerate(row["qformer_input_ids"]) if token in special] == [
            0,
            len(row["qformer_input_ids"]) - 1,
        ]
