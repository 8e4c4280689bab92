"""X-InstructBLIP assembled of parts, of runs that trained apart, and with the original's files in it."""

import json
import shutil

import checkpoints
import numpy as np
import pytest
import toys
import x_toys
from safetensors.numpy import load_file, save_file

import instructblip_jax as ib
from instructblip_jax import families
from instructblip_jax.convert.layouts.x_instructblip import trained_names

TEXTS = ["which digit is red ?", "is there a 7 ?"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return x_toys.write_parts(tmp_path_factory.mktemp("parts"))


def assemble(out, parts, *names, seed=3, **choices):
    families.assemble(out, "x-instructblip", {name: parts[name] for name in names}, seed=seed, **choices)
    return out


@pytest.fixture(scope="module")
def runs(parts, tmp_path_factory):
    """A model of sounds and one of clouds, with other values of what trains."""
    out, made = tmp_path_factory.mktemp("runs"), {}
    for name, seed in (("audio", 1), ("pc", 2)):
        made[name] = assemble(out / name, parts, "language", "bert", name, queries=3)
        tensors = tensors_of(made[name])
        own = trained_names(name)
        tensors |= {n: checkpoints.values(n, x.shape, seed) for n, x in tensors.items() if n.startswith(own)}
        save_file(tensors, made[name] / "model.safetensors", metadata={"format": "pt"})
    return made


def tensors_of(directory):
    """Those of all files: what is taken unchanged is linked, file by file."""
    return {name: x for path in sorted(directory.glob("*.safetensors")) for name, x in load_file(path).items()}


def answers(directory, **media):
    model, processor = ib.from_pretrained(directory, dtype="float32"), ib.Processor.from_pretrained(directory)
    return ib.generate(model, processor, instructions=TEXTS, media=media, max_new_tokens=4)


@pytest.fixture(scope="module")
def merged(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("merged") / "model"
    return assemble(out, {**runs, "language": runs["audio"]}, "language", "audio", "pc")


@pytest.mark.long
def test_runs_that_trained_apart_are_one_model_that_answers_as_each_did(runs, merged):
    rng = np.random.default_rng(0)
    for name, directory in runs.items():
        media = {name: [x_toys.medium(name, rng) for _ in TEXTS]}
        assert answers(merged, **media) == answers(directory, **media)


def test_runs_that_trained_apart_are_taken_as_they_are(runs, merged):
    whole, parted = tensors_of(merged), [tensors_of(d) for d in runs.values()]
    assert checkpoints.leaves_equal(whole, {**parted[0], **parted[1]})


def test_new_parts_begin_as_the_originals_do(parts, tmp_path):
    """The first stage is taken without its attention, and for pictures whole."""
    first = checkpoints.write(tmp_path / "first", json.loads(_first_stage(tmp_path / "first")), seed=8)
    out = assemble(tmp_path / "x", {**parts, "image": first, "qformer": first}, "language", "image", "qformer", "pc")
    made, source = tensors_of(out), tensors_of(first)
    taken = {name.removeprefix("image_Qformer.bert."): x for name, x in made.items() if "image_Qformer" in name}
    clouds = {name.removeprefix("pc_Qformer.bert."): x for name, x in made.items() if "pc_Qformer" in name}
    for name, x in taken.items():
        theirs = name.replace("attention.self.", "attention.attention.")
        theirs = theirs if name.startswith("embeddings.") else f"qformer.{theirs}"
        theirs = theirs.replace("embeddings.LayerNorm", "qformer.layernorm")
        np.testing.assert_array_equal(x, source[theirs])
        if "attention" not in name:
            np.testing.assert_array_equal(x, clouds[name])
        elif x.ndim == 2:
            assert clouds[name].shape != x.shape or not np.array_equal(clouds[name], x)
    np.testing.assert_array_equal(made["image_ln.weight"], source["vision_model.post_layernorm.weight"])
    for name in ("image", "pc"):
        np.testing.assert_array_equal(made[f"{name}_query_tokens"], source["query_tokens"])
        bound = source["query_tokens"].shape[-1] ** -0.5
        assert 0.8 * bound < np.abs(made[f"{name}_llm_proj.weight"]).max() <= bound
    assert {float(made["pc_ln.weight"].max()), float(made["pc_ln.bias"].min())} == {1.0, 0.0}
    video = assemble(tmp_path / "v", {**parts, "video": out}, "language", "video", frames=3)
    begun = tensors_of(video)
    for name, x in made.items():
        if name.startswith(trained_names("image")):
            np.testing.assert_array_equal(begun[name.replace("image", "video", 1)], x)


def _first_stage(directory):
    directory.mkdir()
    toys.write_processor(directory)
    shutil.copytree(directory / "qformer_tokenizer", directory, dirs_exist_ok=True)
    shutil.rmtree(directory / "qformer_tokenizer")
    raw = json.loads((directory / "config.json").read_text())
    del raw["image_token_index"]
    raw |= {"model_type": "blip-2", "architectures": ["Blip2ForImageTextRetrieval"], "image_text_hidden_size": 20}
    raw["qformer_config"]["use_qformer_text_input"] = True
    return json.dumps(raw)


def test_the_originals_files_go_in_one_after_the_other(runs, merged, tmp_path):
    base = merged
    for name, directory in runs.items():
        tensors = tensors_of(directory)
        own = {n: 2 * x for n, x in tensors.items() if n.startswith(trained_names(name))}
        buffer = {f"{name}_Qformer.bert.embeddings.position_ids": np.arange(9)[None]}
        out = tmp_path / f"with_{name}"
        _, taken, skipped = families.with_replaced(out, tmp_path / "f.pth", own | buffer, base)
        assert (taken, skipped) == (len(own), list(buffer))
        written = tensors_of(out)
        assert checkpoints.leaves_equal(written, tensors_of(base) | own)
        base = out


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"audio_projection.weight": (2, 2)}, "linear baseline"),
        ({"video_query_tokens": (1, 3, 16)}, "is of video, and .* has audio; assemble one"),
        ({"query_tokens": (1, 3, 16)}, "holds no tensors of image, video, audio, pc"),
        ({"audio_query_tokens": (1, 4, 16)}, "mis-shaped  audio_query_tokens"),
    ],
)
def test_files_that_do_not_fit_are_refused(runs, tmp_path, tensors, message):
    given = {name: np.zeros(shape, np.float32) for name, shape in tensors.items()}
    with pytest.raises(ValueError, match=message):
        families.with_replaced(tmp_path / "out", tmp_path / "f.pth", given, runs["audio"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("language", "bert"), "give at least one of --image, --video, --audio, --pc"),
        (("language", "audio"), "give --bert"),
    ],
)
def test_parts_that_make_no_model_are_refused(parts, tmp_path, names, message):
    with pytest.raises(ValueError, match=message):
        assemble(tmp_path / "out", parts, *names)
    assert not (tmp_path / "out").exists()


def test_a_modality_that_a_model_lacks_is_refused(runs, tmp_path):
    given = {"language": runs["audio"], "pc": runs["audio"]}
    with pytest.raises(ValueError, match="has no pc; it reads audio"):
        assemble(tmp_path / "out", given, "language", "pc")
