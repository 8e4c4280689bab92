"""Models of single parts: where every tensor comes from, what is drawn, and that they load, train and export.

BLIP-2 and BERT, the oldest combination, are in test_from_blip2.
"""

import json
import re
import shutil
from pathlib import Path

import checkpoints
import ingredients
import numpy as np
import pytest
import toys
from ingredients import INNER, LAYERS, WIDTH
from safetensors.numpy import load_file
from tokenizers import Tokenizer

import instructblip_jax as ib
from instructblip_jax import families
from instructblip_jax.convert import ingredients as combinations
from instructblip_jax.convert.drafts import instructblip as draft
from instructblip_jax.convert.write import MAX_SHARD_BYTES

SEEN = 24  # width of the toys' vision tower


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Part -> directory. "vision" is an InstructBLIP in shards, "qformer" another model's."""
    root = tmp_path_factory.mktemp("parts")
    vision = toys.write_model(root / "vision", seed=1)
    (vision / "model.safetensors").unlink()
    raw = json.loads((vision / "config.json").read_text())
    checkpoints.write(vision, raw, seed=1, shard_bytes=8_000)
    words = Tokenizer.from_file(str(vision / "tokenizer.json")).get_vocab_size()
    return {
        "vision": vision,
        "qformer": toys.write_model(root / "qformer", seed=2),
        "bert": ingredients.write_bert(root),
        "t5": ingredients.write_plain_t5(root / "t5", words - 1),
        "llama": ingredients.write_plain_llama(root / "llama"),
    }


CASES = {
    "instructblip": ("instructblip", ("vision", "bert"), "t5"),
    "instructblip-llama": ("instructblip", ("vision", "bert"), "llama"),
    "blip-2-qformer": ("blip-2", ("vision", "qformer"), "t5"),
    "blip-2-bert": ("blip-2", ("vision", "bert"), "llama"),
    "blip-2-new": ("blip-2", ("vision",), "t5"),
}


@pytest.fixture(scope="module")
def made(parts, tmp_path_factory):
    """Case -> the directory that is assembled; the sizes of a Q-Former that has none are the toys'."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        small = {
            "hidden_size": WIDTH,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 2,
            "intermediate_size": INNER,
        }
        patch.setattr(draft, "NEW_QFORMER", small)
        for case, (system, names, language) in CASES.items():
            given = {name: parts[name] for name in names} | {"language": parts[language]}
            families.assemble(root / case, system, given, seed=7)
    return root


def read(directory: Path) -> dict[str, np.ndarray]:
    return {name: x for path in directory.glob("*.safetensors") for name, x in load_file(path).items()}


@pytest.mark.parametrize("case", CASES)
def test_every_tensor_is_a_parts_or_is_drawn(parts, made, case):
    system, names, language = CASES[case]
    got, used = read(made / case), {name: read(parts[name]) for name in (*names, language)}

    def same(name: str, want: np.ndarray) -> None:
        value = got.pop(name)
        np.testing.assert_array_equal(value, want, err_msg=name)
        assert value.dtype == want.dtype

    for name in [name for name in got if name.startswith("vision_model.")]:
        same(name, used["vision"][name])
    for name in [name for name in got if name.startswith("language_model.")]:
        want = used[language][name.removeprefix("language_model.")]
        value = got.pop(name)
        np.testing.assert_array_equal(value[: len(want)], want, err_msg=name)
    norm = "qformer.layernorm" if system == "blip-2" else "qformer.embeddings.layernorm"
    if "qformer" in names:
        for name in [name for name in got if name.startswith("qformer.") or name == "query_tokens"]:
            same(name, used["qformer"][name.replace(norm, "qformer.embeddings.layernorm")])
    if "bert" in names:
        bert = {name.replace("gamma", "weight").replace("beta", "bias"): x for name, x in used["bert"].items()}
        for part in ("weight", "bias"):
            same(f"{norm}.{part}", bert[f"bert.embeddings.LayerNorm.{part}"])
        for name in [name for name in got if ".layer." in name and ".crossattention." not in name]:
            theirs = name.replace("qformer.", "bert.").replace("_query.", ".")
            same(name, bert[theirs.replace("attention.attention.", "attention.self.")])
        if system == "instructblip":
            words = got.pop("qformer.embeddings.word_embeddings.weight")
            np.testing.assert_array_equal(words[:-1], bert["bert.embeddings.word_embeddings.weight"])
            table = "embeddings.position_embeddings.weight"
            same(f"qformer.{table}", bert[f"bert.{table}"])
    drawn = "language_projection" if "qformer" in names else "language_projection|query_tokens|qformer"
    assert all(re.match(drawn, name) for name in got), list(got)
    if "bert" in names:
        assert all(".crossattention." in name for name in got if name.startswith("qformer."))
    for name, value in got.items():
        if name.startswith("language_projection."):
            assert 0.5 * WIDTH**-0.5 < np.abs(value).max() <= WIDTH**-0.5
        elif name.endswith(".bias"):
            assert not value.any()
        elif "norm" in name.lower():
            assert (value == 1).all()
        else:
            assert 0.015 < value.std() < 0.025, name
        assert value.dtype == np.float32
    keys = [name for name in got if name.endswith("crossattention.attention.key.weight")]
    assert all(got[name].shape == (WIDTH, SEEN) for name in keys)
    values = [x.tobytes() for name, x in got.items() if x.ndim > 1 and x.shape == (WIDTH, SEEN)]
    assert len(set(values)) == len(values)  # each has draws of its own


def test_a_models_language_model_is_replaced(parts, tmp_path):
    """All else is the model's own, the Q-Former's tokenizer too; the projection is drawn anew."""
    given = {"model": parts["qformer"], "language": parts["llama"]}
    families.assemble(tmp_path / "made", "instructblip", given, seed=7)
    got, old, new = (read(path) for path in (tmp_path / "made", *given.values()))
    for name, value in got.items():
        if name.startswith("language_model."):
            want = new[name.removeprefix("language_model.")]
            np.testing.assert_array_equal(value[: len(want)], want, err_msg=name)
        elif not name.startswith("language_projection."):
            np.testing.assert_array_equal(value, old[name], err_msg=name)
    assert got["language_projection.weight"].shape == (got["language_model.model.norm.weight"].size, 16)
    words = [
        Tokenizer.from_file(str(path / "qformer_tokenizer/tokenizer.json"))
        for path in (parts["qformer"], tmp_path / "made")
    ]
    assert words[0].get_vocab() == words[1].get_vocab()
    ib.from_pretrained(tmp_path / "made")
    with pytest.raises(ValueError, match=r"model_type is 'llama', not 'instructblip'"):
        families.assemble(tmp_path / "other", "instructblip", given | {"model": parts["llama"]})


def test_new_query_tokens_are_as_many_as_asked_and_as_large_as_bert_says(parts, tmp_path):
    bert = shutil.copytree(parts["bert"], tmp_path / "bert")
    edit_json(bert / "config.json", initializer_range=0.5)
    given = {"vision": parts["vision"], "bert": bert, "language": parts["t5"]}
    families.assemble(tmp_path / "made", "instructblip", given, queries=3)
    got = read(tmp_path / "made")
    assert got["query_tokens"].shape == (1, 3, WIDTH)
    drawn = [x.std() for name, x in got.items() if ".crossattention." in name and name.endswith("query.weight")]
    assert min(drawn) > 0.4


@pytest.mark.parametrize(
    ("system", "given"),
    [("blip-2", ("qformer", "language")), ("instructblip", ("blip2", "bert")), ("albef", ("vision", "bert"))],
)
def test_no_number_of_queries_where_none_are_new(system, given):
    combinations.check_queries(system, given, None)
    with pytest.raises(ValueError, match="whose query tokens are new"):
        combinations.check_queries(system, given, 16)


def test_the_language_model_of_another_model_is_taken(parts, made, tmp_path):
    """An InstructBLIP's, with its tokenizer; not its projection, which belongs to its Q-Former."""
    given = {"vision": parts["vision"], "qformer": parts["qformer"], "language": made / "instructblip-llama"}
    families.assemble(tmp_path / "made", "blip-2", given, seed=3)
    got, theirs = read(tmp_path / "made"), read(given["language"])
    names = [name for name in got if name.startswith("language_model.")]
    assert names == [name for name in theirs if name.startswith("language_model.")]
    for name in names:
        np.testing.assert_array_equal(got[name], theirs[name], err_msg=name)
    assert not np.array_equal(got["language_projection.weight"], theirs["language_projection.weight"])
    sections = [json.loads((path / "config.json").read_text()) for path in (tmp_path / "made", given["language"])]
    assert sections[0]["text_config"] == sections[1]["text_config"]
    assert sections[0]["image_token_index"] == sections[1]["image_token_index"]
    ib.from_pretrained(tmp_path / "made")


@pytest.mark.parametrize("case", ["instructblip", "blip-2-qformer", "blip-2-bert"])
def test_it_loads_learns_and_is_exported(made, tmp_path, case):
    model, processor = ib.from_pretrained(made / case, dtype="float32"), ib.Processor.from_pretrained(made / case)
    pictures = list(np.random.default_rng(0).integers(0, 255, (2, toys.SIZE, toys.SIZE, 3), np.uint8))
    texts, answers = (["a b ca", "ab"], ["cab", "a"]) if case == "blip-2-bert" else (["red ?", "3"], ["3", "4"])
    batch = processor(pictures, texts, answers)
    before, grads = ib.gradients(model, batch)
    assert all(np.isfinite(x).all() for x in grads.values())
    assert all(np.abs(grads[name]).max() > 0 for name in ("query_tokens", "language_projection.weight"))
    for path, name in (
        ("projector/kernel", "language_projection.weight"),
        ("projector/bias", "language_projection.bias"),
    ):
        model.train[path] = model.train[path] - np.float32(0.05) * grads[name].T
    after, _ = ib.gradients(model, batch)
    assert float(after) < float(before)
    model.save_pretrained(tmp_path / "out")
    again = ib.from_pretrained(tmp_path / "out", dtype="float32")
    assert checkpoints.leaves_equal(checkpoints.host(again.train), checkpoints.host(model.train))
    assert checkpoints.leaves_equal(checkpoints.host(again.frozen), checkpoints.host(model.frozen))


@pytest.mark.parametrize("case", ["instructblip-llama", "blip-2-new"])
def test_it_loads_and_answers(made, case):
    model, processor = ib.from_pretrained(made / case, dtype="float32"), ib.Processor.from_pretrained(made / case)
    picture = np.full((toys.SIZE, toys.SIZE, 3), 90, np.uint8)
    assert ib.generate_ids(model, processor(picture, "a b"), max_new_tokens=2).shape == (1, 2)


@pytest.mark.parametrize("case", ["instructblip", "blip-2-qformer", "blip-2-bert"])
def test_transformers_loads_it_and_answers_as_we_do(made, case):
    pytest.importorskip("torch")
    import reference

    raw = json.loads((made / case / "config.json").read_text())
    theirs = reference.load(made / case)  # fails for a missing or an unexpected key
    processor = ib.Processor.from_pretrained(made / case)
    picture, text = np.full((toys.SIZE, toys.SIZE, 3), 90, np.uint8), "a b ca" if "llama" in str(raw) else "red ?"
    batch = processor(picture, text, text)
    want = reference.answers(theirs, reference.inputs(theirs, batch), trained=())["logits"]
    model = ib.from_pretrained(made / case, dtype="float32")
    assert np.abs(np.asarray(model(batch)) - want).max() < 2e-5
    from transformers import AutoProcessor

    library = AutoProcessor.from_pretrained(made / case)
    assert type(library).__name__ == ("InstructBlipProcessor" if case == "instructblip" else "Blip2Processor")
    encoded = library(images=picture, text=text, return_tensors="np")
    np.testing.assert_array_equal(
        encoded["input_ids"][:, raw["num_query_tokens"] :], processor(picture, text)["input_ids"]
    )
    np.testing.assert_allclose(encoded["pixel_values"].transpose(0, 2, 3, 1), batch["pixel_values"], atol=1e-6)


def test_the_seed_decides_what_is_drawn_and_nothing_else(parts, made, tmp_path):
    given = {name: parts[name] for name in ("vision", "bert")} | {"language": parts["t5"]}
    families.assemble(tmp_path / "same", "instructblip", given, seed=7)
    families.assemble(tmp_path / "other", "instructblip", given, seed=8, max_shard_bytes=5_000)
    want, same, other = (read(path) for path in (made / "instructblip", tmp_path / "same", tmp_path / "other"))
    assert checkpoints.leaves_equal(same, want)
    changed = {name for name in want if not np.array_equal(want[name], other[name])}
    assert "query_tokens" in changed
    drawn = r"language_projection|query_tokens|.*crossattention.*weight|.*word_embeddings|.*(shared|lm_head)"
    assert all(re.match(drawn, name) for name in changed)


# Links


def inodes(directory: Path) -> dict[int, str]:
    return {path.stat().st_ino: path.name for path in directory.glob("*.safetensors")}


def test_whole_files_are_linked_and_the_rest_is_copied(parts, made):
    source, out = inodes(parts["vision"]), inodes(made / "instructblip")
    shared = source.keys() & out.keys()
    assert len(shared) >= 2
    index = json.loads((made / "instructblip" / "model.safetensors.index.json").read_text())["weight_map"]
    for inode in shared:
        names = load_file(parts["vision"] / source[inode])
        assert all(name.startswith("vision_model.") for name in names)
        assert {index[name] for name in names} == {out[inode]}
    assert set(index) == set(read(made / "instructblip"))
    count = len(out)
    assert sorted(out.values()) == [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]


def test_a_file_system_without_links_gets_copies(parts, made, tmp_path, monkeypatch):
    def refuse(*args: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refuse)
    given = {name: parts[name] for name in ("vision", "bert")} | {"language": parts["t5"]}
    written = families.assemble(tmp_path / "out", "instructblip", given, seed=7, max_shard_bytes=MAX_SHARD_BYTES)
    assert not any(file.linked for file in written)
    assert not inodes(parts["vision"]).keys() & inodes(tmp_path / "out").keys()
    assert checkpoints.leaves_equal(read(tmp_path / "out"), read(made / "instructblip"))


def test_one_whole_file_is_linked_under_its_name(parts, tmp_path):
    """A model without any change is one link; without one of its tensors it is a copy."""
    from instructblip_jax.convert.shards import open_shards
    from instructblip_jax.convert.write import stored, write_shards

    shards = open_shards(parts["qformer"])
    tensors = [(name, stored(shards, name)) for name in shards.shapes]
    (written,) = write_shards(tmp_path, tensors, 10, link=True)
    assert (written.file, written.linked) == ("model.safetensors", str(parts["qformer"] / "model.safetensors"))
    assert inodes(tmp_path) == inodes(parts["qformer"])
    written = write_shards(tmp_path / "less", tensors[1:], MAX_SHARD_BYTES, link=True)
    assert not inodes(tmp_path / "less").keys() & inodes(parts["qformer"]).keys()


# What does not fit


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


FAULTS = {
    "a vision tower of another family": (
        ("vision", "bert", "t5"),
        lambda copy: edit_json(copy["vision"] / "config.json", model_type="llava"),
        r"vision/config\.json: model_type is 'llava'; this layout is that of blip-2, instructblip, instructblipvideo",
    ),
    "a vision tower that is not whole": (
        ("vision", "bert", "t5"),
        lambda copy: edit_json(copy["vision"] / "config.json", num_query_tokens=5),
        r"vision: 1 tensors do not fit.*\n +mis-shaped +query_tokens",
    ),
    "no BERT": (
        ("vision", "bert", "t5"),
        lambda copy: edit_json(copy["bert"] / "config.json", model_type="roberta"),
        r"bert/config\.json: model_type is 'roberta', not 'bert'",
    ),
    "a BERT of other sizes than its config.json": (
        ("vision", "bert", "t5"),
        lambda copy: edit_json(copy["bert"] / "config.json", num_hidden_layers=4),
        r"bert: no BERT for this Q-Former, 16 tensors:\n +missing +encoder\.layer\.3",
    ),
    "a BERT whose heads do not divide it": (
        ("vision", "bert", "t5"),
        lambda copy: edit_json(copy["bert"] / "config.json", num_attention_heads=3),
        r"bert/config\.json: hidden_size 16 is not a multiple of num_attention_heads 3",
    ),
    "a size that is none": (
        ("vision", "bert", "t5"),
        lambda copy: edit_json(copy["bert"] / "config.json", hidden_size="wide"),
        r"bert/config\.json: hidden_size is 'wide', not of type int",
    ),
    "a language model that is none": (
        ("vision", "bert", "t5"),
        lambda copy: edit_json(copy["t5"] / "config.json", model_type="bert"),
        r"t5/config\.json: model_type is 'bert'.*t5, llama, opt, or that of",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_named_and_nothing_is_left(parts, tmp_path, fault):
    names, break_it, words = FAULTS[fault]
    copies = {name: shutil.copytree(parts[name], tmp_path / "in" / name) for name in names}
    break_it(copies)
    given = {"language" if name == "t5" else name: path for name, path in copies.items()}
    with pytest.raises(ValueError, match=words) as caught:
        families.assemble(tmp_path / "out", "instructblip", given)
    assert "partial" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_q_former_of_another_tower_is_refused(parts, tmp_path):
    raw = json.loads((parts["vision"] / "config.json").read_text())
    raw["vision_config"]["hidden_size"] = 32
    other = checkpoints.write(tmp_path / "wide", raw, seed=3)
    given = {"vision": other, "qformer": parts["qformer"], "language": parts["t5"]}
    with pytest.raises(
        ValueError, match=r"qformer: its Q-Former reads image tokens of width 24; those of .*wide have 32"
    ):
        families.assemble(tmp_path / "out", "blip-2", given)


def test_every_combination_has_its_family():
    assert all(families.FAMILIES[system].draft for system in combinations.SYSTEMS)
    for ways in combinations.SYSTEMS.values():
        for required, optional in ways:
            assert {*required, *optional} <= combinations.PARTS.keys()


@pytest.mark.parametrize(
    ("system", "given", "words"),
    [
        ("blop", ["vision"], r"no system 'blop' can be assembled; expected one of instructblip, blip-2"),
        (
            "instructblip",
            [],
            r"--blip2 --bert \[--language\] or --vision --bert --language or --model --language; given: no",
        ),
        ("instructblip", ["blip2"], r"given: --blip2"),
        ("blip-2", ["vision", "language", "audio"], r"--qformer --language \[--vision\]; given: .*--audio"),
        ("blip-2", ["vision", "language", "qformer", "bert"], r"given: --vision --language --qformer --bert"),
    ],
)
def test_parts_that_make_no_system_are_answered_with_those_that_do(system, given, words):
    with pytest.raises(ValueError, match=words):
        combinations.check(system, given)
