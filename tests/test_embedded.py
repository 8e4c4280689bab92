"""The digits world's models: what ships, what is put together of it at first use, and that the parts know the tasks."""

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
from instructblip_jax import embedded
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
    return resolve(runpy.run_path(str(toys.ROOT / "configs" / file))["get_config"](variant))


def test_what_ships_beside_the_first_model_is_small():
    for name, most in (("digits_llama", 4 * MEGABYTE), ("digits_clip", 1.5 * MEGABYTE)):
        assert sum(path.stat().st_size for path in (embedded.ASSETS / name).rglob("*")) < most


def test_an_unknown_model_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match=r"no embedded model 'digit'; there are digits, digits-llama, digits-llava"):
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
