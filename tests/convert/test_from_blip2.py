"""BLIP-2 and BERT, or another language model, to InstructBLIP: by value, by name, and against transformers."""

import json
import re
import shutil
from pathlib import Path

import checkpoints
import ingredients
import numpy as np
import pytest
import toys
from ingredients import LAYERS, T5, WIDTH
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

import instructblip_jax as ib
from instructblip_jax import families
from instructblip_jax.convert import vocabulary


def from_blip2(out: Path, blip2: Path, bert: Path, language: Path | None = None, **options) -> None:
    parts = {"blip2": blip2, "bert": bert} | ({"language": language} if language else {})
    families.assemble(out, "instructblip", parts, **options)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Directories: a BLIP-2, a BERT of its size, and a plain T5 with exactly as many rows as tokens."""
    root = tmp_path_factory.mktemp("sources")
    blip2 = toys.write_model(root / "blip2", "blip-2", seed=3)
    words = Tokenizer.from_file(str(blip2 / "tokenizer.json")).get_vocab_size()
    return blip2, ingredients.write_bert(root), ingredients.write_plain_t5(root / "t5", words - 1)


@pytest.fixture(scope="module")
def made(sources, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "out"
    from_blip2(out, *sources[:2])
    return out


@pytest.fixture(scope="module")
def made_over_t5(sources, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "over_t5"
    from_blip2(out, *sources, max_shard_bytes=20_000)
    return out


def read(directory: Path) -> dict[str, np.ndarray]:
    return {name: x for path in directory.glob("*.safetensors") for name, x in load_file(path).items()}


def test_every_tensor_comes_from_where_it_should(sources, made):
    blip2, bert, got = read(sources[0]), read(sources[1]), read(made)
    for name in [name for name in blip2 if not name.startswith("qformer.layernorm.")]:
        np.testing.assert_array_equal(got.pop(name), blip2[name], err_msg=name)
    for part in ("weight", "bias"):
        want = blip2[f"qformer.layernorm.{part}"]
        np.testing.assert_array_equal(got.pop(f"qformer.embeddings.layernorm.{part}"), want)
    words = got.pop("qformer.embeddings.word_embeddings.weight")
    np.testing.assert_array_equal(words[:-1], bert["bert.embeddings.word_embeddings.weight"])
    assert 0.005 < words[-1].std() < 0.05
    want = bert["bert.embeddings.position_embeddings.weight"]
    np.testing.assert_array_equal(got.pop("qformer.embeddings.position_embeddings.weight"), want)
    for n in range(LAYERS):
        layer = f"encoder.layer.{n}"
        for name in (
            "intermediate.dense.weight",
            "intermediate.dense.bias",
            "output.dense.weight",
            "output.dense.bias",
        ):
            np.testing.assert_array_equal(got.pop(f"qformer.{layer}.{name}"), bert[f"bert.{layer}.{name}"])
        for part, theirs in (("weight", "gamma"), ("bias", "beta")):
            want = bert[f"bert.{layer}.output.LayerNorm.{theirs}"]
            np.testing.assert_array_equal(got.pop(f"qformer.{layer}.output.LayerNorm.{part}"), want)
    assert not got


def test_new_names_of_bert_and_the_same_seed_give_the_same(sources, made, tmp_path):
    bert = ingredients.write_bert(tmp_path / "new", old_names=False)
    from_blip2(tmp_path / "out", sources[0], bert)
    assert checkpoints.leaves_equal(read(tmp_path / "out"), read(made))
    from_blip2(tmp_path / "other", sources[0], bert, seed=1)
    words = "qformer.embeddings.word_embeddings.weight"
    differs = read(tmp_path / "other")[words] != read(made)[words]
    assert differs[-1].all()
    assert not differs[:-1].any()


def test_another_language_model_with_a_new_projection_and_rows_for_new_tokens(sources, made, made_over_t5):
    got, plain, blip2 = read(made_over_t5), read(sources[2]), read(sources[0])
    rows = len(plain["shared.weight"])
    for name in [name for name in got if name.startswith("language_model.")]:
        value, want = got.pop(name), plain[name.removeprefix("language_model.")]
        if "shared" in name or "lm_head" in name:
            assert value.shape == (-(-(rows + 1) // 64) * 64, T5["d_model"])
            assert 0.01 < value[rows:].std() < 0.03
            value = value[:rows]
        np.testing.assert_array_equal(value, want, err_msg=name)
    weight, bias = got.pop("language_projection.weight"), got.pop("language_projection.bias")
    bound = WIDTH**-0.5
    assert weight.shape == (T5["d_model"], WIDTH)
    for value in (weight, bias):
        assert 0.8 * bound < np.abs(value).max() <= bound
    rest = read(made)
    assert checkpoints.leaves_equal(got, {name: rest[name] for name in got})
    assert got.keys() == {name for name in rest if not name.startswith(("language_model.", "language_projection."))}
    np.testing.assert_array_equal(got["query_tokens"], blip2["query_tokens"])
    assert ib.InstructBlip.from_pretrained(made_over_t5, dtype="float32").config.text.activation == "gelu"
    tokenizer = Tokenizer.from_file(str(made_over_t5 / "tokenizer.json"))
    config = json.loads((made_over_t5 / "config.json").read_text())
    assert config["image_token_index"] == tokenizer.token_to_id("<image>") == rows


@pytest.mark.parametrize("which", ["made", "made_over_t5"])
def test_transformers_loads_it_without_a_key_missing_and_answers_as_we_do(which, request):
    pytest.importorskip("torch")
    import reference

    directory = request.getfixturevalue(which)
    raw = json.loads((directory / "config.json").read_text())
    theirs = reference.load(directory)  # fails for a missing or an unexpected key
    processor = ib.Processor.from_pretrained(directory)
    pictures = list(np.random.default_rng(0).integers(0, 255, (2, toys.SIZE, toys.SIZE, 3), np.uint8))
    texts = ["which digit is red ?", "list all digits"]
    batch = processor(pictures, texts, ["3", "yes"])
    want = reference.answers(theirs, reference.inputs(theirs, batch))
    model = ib.InstructBlip.from_pretrained(directory, dtype="float32")
    assert np.abs(np.asarray(model(batch)) - want["logits"]).max() < 2e-5
    for row, text in enumerate(texts):  # the instruction is read by the Q-Former, through what came from BERT
        assert batch["qformer_attention_mask"][row].sum() > len(text.split())
    from transformers import InstructBlipProcessor

    library = InstructBlipProcessor.from_pretrained(directory)
    encoded = library(images=pictures, text=texts, padding=True, return_tensors="np")
    queries = raw["num_query_tokens"]
    np.testing.assert_array_equal(encoded["input_ids"][:, :queries], raw["image_token_index"])
    np.testing.assert_array_equal(encoded["input_ids"][:, queries:], batch["input_ids"])
    np.testing.assert_array_equal(encoded["qformer_input_ids"], batch["qformer_input_ids"])
    np.testing.assert_allclose(encoded["pixel_values"].transpose(0, 2, 3, 1), batch["pixel_values"], atol=1e-6)
    assert library.qformer_tokenizer.bos_token_id == raw["qformer_config"]["vocab_size"] - 1


def test_llama_gets_a_padding_token_and_begins_with_its_end(tmp_path):
    """As in the original, whose begin token is ``</s>``; [PAD] comes before <image>, as in the public repositories."""
    assert ingredients.write_llama_tokenizer(tmp_path) == 7
    words = vocabulary.for_language_model(tmp_path, "llama", "InstructBlipProcessor")
    words.write(tmp_path / "out")
    got = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert [got.token_to_id(token) for token in ("[PAD]", "<image>")] == [7, 8]
    assert words.size == 9
    assert got.encode("ab c").ids == [2, 6, 3, 4, 6, 5]
    assert [config[f"{name}_token"] for name in ("bos", "eos", "unk", "pad")] == ["</s>", "</s>", "</s>", "[PAD]"]
    added = {n: entry["content"] for n, entry in config["added_tokens_decoder"].items()}
    assert added == {"1": "<s>", "7": "[PAD]", "8": "<image>"}


def test_over_llama_transformers_loads_it_and_answers_as_we_do(sources, tmp_path):
    pytest.importorskip("torch")
    import reference

    plain = ingredients.write_plain_llama(tmp_path / "llama")
    from_blip2(tmp_path / "out", *sources[:2], plain)
    before, after = read(plain), read(tmp_path / "out")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert after[f"language_model.{name}"].shape == (64, 24)
        np.testing.assert_array_equal(after[f"language_model.{name}"][:7], before[name])
    theirs = reference.load(tmp_path / "out")  # fails for a missing or an unexpected key
    processor = ib.Processor.from_pretrained(tmp_path / "out")
    batch = processor(np.full((toys.SIZE, toys.SIZE, 3), 90, np.uint8), "a b ca", "cab")
    assert batch["input_ids"][0, 0] == 2  # </s>
    batch.pop("labels")
    with reference.torch.no_grad():
        want = theirs(**reference.inputs(theirs, batch)).logits[:, theirs.config.num_query_tokens :].numpy()
    model = ib.InstructBlip.from_pretrained(tmp_path / "out", dtype="float32")
    assert np.abs(np.asarray(model(batch)) - want).max() < 2e-5
    assert np.abs(want).max() > 0.5


# What does not fit


def edit(directory: Path, change) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def drop(*names):
    return lambda tensors: [tensors.pop(name) for name in names]


FAULTS = {
    "two of BERT": (
        lambda blip2, bert, t5: edit(
            bert, drop("bert.embeddings.word_embeddings.weight", "bert.encoder.layer.1.output.LayerNorm.beta")
        ),
        r"bert: .*2 tensors:\n.*missing +embeddings\.word_emb.*\n.*missing +encoder\.layer\.1\.output\.LayerNorm\.bias",
    ),
    "BERT of another size": (
        lambda blip2, bert, t5: edit(
            bert, lambda x: x.update({"bert.encoder.layer.0.intermediate.dense.weight": np.zeros((5, 7), np.float32)})
        ),
        r"bert: .*\n.*mis-shaped +encoder\.layer\.0\.intermediate\.dense\.weight \[5, 7\].*\[24, 16\]",
    ),
    "BERT with another vocabulary": (
        lambda blip2, bert, t5: edit(
            bert, lambda x: x.update({"bert.embeddings.word_embeddings.weight": np.zeros((9, WIDTH), np.float32)})
        ),
        r"bert/tokenizer\.json: has \d+ tokens, but the word embedding has 9 rows",
    ),
    "BERT without a tokenizer": (
        lambda blip2, bert, t5: (bert / "tokenizer.json").unlink(),
        r"bert/tokenizer\.json: no such file",
    ),
    "no BLIP-2": (
        lambda blip2, bert, t5: edit_json(blip2 / "config.json", model_type="instructblip"),
        r"blip2/config\.json: model_type is 'instructblip', not 'blip-2'",
    ),
    "BLIP-2 with a tensor missing": (
        lambda blip2, bert, t5: edit(blip2, drop("query_tokens")),
        r"blip2: 1 tensors.*\n.*missing +query_tokens",
    ),
    "a language model of another kind": (
        lambda blip2, bert, t5: edit_json(t5 / "config.json", model_type="gpt2"),
        r"t5/config\.json: model_type is 'gpt2'.*t5, llama, opt, or that of",
    ),
    "an old T5": (
        lambda blip2, bert, t5: edit_json(t5 / "config.json", feed_forward_proj="relu"),
        r"t5/config\.json: text_config\.feed_forward_proj is 'relu'",
    ),
    "a T5 with a tensor too many": (
        lambda blip2, bert, t5: edit(t5, lambda x: x.update({"adapter.weight": np.zeros(2, np.float32)})),
        r"t5: 1 tensors.*\n.*unexpected +language_model\.adapter\.weight",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_named_and_nothing_is_left(sources, tmp_path, fault):
    names = ("blip2", "bert", "t5")
    copies = [shutil.copytree(path, tmp_path / "in" / name) for path, name in zip(sources, names, strict=True)]
    break_it, words = FAULTS[fault]
    break_it(*copies)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        from_blip2(tmp_path / "out", *copies)
    assert re.search(words, str(caught.value)), str(caught.value)
    assert "partial" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_source_is_not_written_over(sources):
    for path in sources:
        with pytest.raises(ValueError, match="is the source model"):
            from_blip2(path, *sources)
