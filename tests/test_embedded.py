"""The digits world's models: what ships, what is put together of it at first use, and that the parts know the tasks."""

import re
import runpy
import subprocess
from pathlib import Path

import numpy as np
import pytest
import toys
from flax import nnx
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file
from tokenizers import Tokenizer
from transformers import AutoTokenizer

import instructblip_jax as ib
from instructblip_jax import embedded, hub
from instructblip_jax.command_lines import run_flags
from instructblip_jax.datasets.digits import scene as scenes
from instructblip_jax.mesh import single_device_mesh
from instructblip_jax.processors.tokenizer import TextTokenizer
from instructblip_jax.run.config import resolve

MEGABYTE = 10**6


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """An empty cache directory; jax keeps its programs elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def tensors(directory: Path) -> dict[str, np.ndarray]:
    return {name: x for path in directory.glob("*.safetensors") for name, x in load_file(path).items()}


def run_of(file: str, variant: str):
    return resolve(runpy.run_path(str(toys.ROOT / "configs" / file))["get_config"](*filter(None, [variant])))


def test_what_ships_beside_the_first_model_is_small():
    sizes = {"digits_llama": 4 * MEGABYTE, "digits_clip": 1.5 * MEGABYTE, "digits_bert": MEGABYTE}
    for name, most in sizes.items():
        assert sum(path.stat().st_size for path in (embedded.ASSETS / name).rglob("*")) < most


def test_an_unknown_model_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match=r"'digit'; expected one of digits, digits-llama, digits-frozen"):
        embedded.model("digit")


def test_what_assemble_says_is_passed_on(monkeypatch):
    refused = subprocess.CompletedProcess([], 1, "", "ValueError: config.json: model_type is 'llama'\n")
    monkeypatch.setattr(embedded.subprocess, "run", lambda *args, **options: refused)
    parts = {"model": "digits_llama", "language": "digits_llama"}
    monkeypatch.setitem(embedded.MADE, "odd", (("instructblip",), parts))
    with pytest.raises(
        RuntimeError, match=r"odd: could not be assembled in .*\nValueError: config.json: model_type is"
    ):
        embedded.model("odd")


@pytest.mark.parametrize(
    ("file", "variant", "name", "sources"),
    [
        (
            "digits.py",
            "llama",
            "digits-llama",
            {"vision_model.": ("digits", "vision_model."), "qformer.": ("digits", "qformer.")},
        ),
        ("digits_llava.py", "projector_and_llm", "digits-llava", {"vision_tower.": ("digits_clip", "")}),
    ],
)
def test_a_model_is_made_of_the_parts(file, variant, name, sources, monkeypatch):
    run = run_of(file, variant)
    directory = Path(run.model)
    monkeypatch.setattr(embedded.subprocess, "run", None)  # it is there: nothing is assembled again
    assert embedded.model(name) == directory
    made, llama = tensors(directory), tensors(embedded.ASSETS / "digits_llama")
    for prefix, (folder, theirs) in {**sources, "language_model.": ("digits_llama", "")}.items():
        part = tensors(embedded.ASSETS / folder)
        own = [key for key in made if key.startswith(prefix)]
        assert own
        for key in own:
            want = part[theirs + key.removeprefix(prefix)]
            np.testing.assert_array_equal(made[key][: len(want)], want, err_msg=key)
    assert made["language_model.lm_head.weight"].shape == llama["lm_head.weight"].shape  # rows to spare for new tokens
    model = ib.from_pretrained(directory, single_device_mesh(), **run.model_options())
    processor = ib.Processor.from_pretrained(directory, **run.system_options())
    rng = np.random.default_rng(0)
    picture = scenes.render(scenes.draw(rng), "train", rng)
    batch = processor([picture], ["which digit is top-left ?"], ["3"])
    assert processor.tokenizer.unknown("which digit is top-left ?") == []
    length = processor.lengths(processor.encode("which digit is top-left ?", "3"))[0]
    assert length < max(run.data.instruction_lengths)
    assert 0 < ib.loss(model, batch)[0] < np.inf


@pytest.mark.parametrize(
    ("file", "patches", "text"),
    [
        ("digits_blip2_stage1.py", "vision_model.embeddings.patch_embedding", "qformer.encoder.layer.3.output.dense"),
        ("digits_blip.py", "vision_model.embeddings.patch_embedding", "text_encoder.encoder.layer.3.output.dense"),
        ("digits_albef.py", "visual_encoder.patch_embed.proj", "text_encoder.bert.encoder.layer.3.output.dense"),
    ],
)
def test_what_compares_is_made_of_the_tower_and_bert(file, patches, text):
    """Cross-attention is new, and as large as config.json of BERT has it: at the usual 0.02 this width hardly moves."""
    run = run_of(file, "")
    made, tower, bert = map(tensors, (Path(run.model), embedded.ASSETS / "digits", embedded.ASSETS / "digits_bert"))
    same = tower["vision_model.embeddings.patch_embedding.weight"]
    np.testing.assert_array_equal(made[f"{patches}.weight"], same)
    np.testing.assert_array_equal(made[f"{text}.weight"], bert["bert.encoder.layer.3.output.dense.weight"])
    drawn = [x.std() for name, x in made.items() if re.search(r"crossattention.*(query|key)\.weight", name)]
    assert len(drawn) > 1
    assert np.allclose(drawn, 96**-0.5, rtol=0.05)
    processor = ib.Processor.from_pretrained(run.model, **run.system_options())
    longest = " , ".join(["top-left red 3"] * scenes.MOST)
    assert processor.tokenizer.unknown(longest) == []
    assert processor.lengths(processor.encode("", longest))[1] <= max(run.data.response_lengths)


def test_the_language_model_answers_from_text(monkeypatch):
    """In both places of a scene: before all text, and in a turn of a conversation."""
    monkeypatch.syspath_prepend(str(toys.ROOT / "tools"))
    import digits_llama

    model = ib.from_pretrained(embedded.model("digits-llama"), single_device_mesh(), dtype="float32")
    params = unflatten_dict(dict(model.frozen), sep="/")["llm"]
    graph, _ = nnx.split(model.config.text.build(dtype="float32", rngs=nnx.Rngs(0)))
    words = Tokenizer.from_file(str(embedded.ASSETS / "digits_llama" / "tokenizer.json"))
    monkeypatch.setattr(digits_llama, "TASKS", ("digit_at",))
    right = digits_llama.accuracy(graph, params, words, ("prefix", "conversation"), per_kind=20)
    assert min(right.values()) >= 0.8, right


def test_transformers_reads_the_tokenizer_alike():
    folder, text = embedded.ASSETS / "digits_llama", "USER: \nwhich digit is top-left ? ASSISTANT: 3"
    theirs, ours = AutoTokenizer.from_pretrained(folder), TextTokenizer(embedded.model("digits-llava"))
    assert theirs.encode(text) == ours.encode(text).tolist()
    assert theirs.tokenize("which digit is top-left ?") == ["▁which", "▁digit", "▁is", "▁top-left", "▁?"]
    assert (theirs.unk_token_id, theirs.bos_token_id, theirs.eos_token_id) == (0, 1, 2)


def test_a_name_is_a_configuration_or_a_model_that_ships_unless_there_is_such_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_flags.found("digits:blind") == f"{toys.ROOT / 'configs' / 'digits.py'}:blind"
    assert run_flags.found("configs/own_data.py") == str(toys.ROOT / "configs" / "own_data.py")
    assert run_flags.found("nowhere") == "nowhere"
    assert hub.resolve("digits") == toys.SHIPPED
    own = tmp_path / "configs" / "digits.py"
    own.parent.mkdir()
    own.touch()
    assert run_flags.found("configs/digits.py") == "configs/digits.py"
    (tmp_path / "digits").mkdir()
    assert hub.resolve("digits") == Path("digits")
