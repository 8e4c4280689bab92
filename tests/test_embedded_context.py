"""The digits world's language model that learns from its context, and the systems that are made of it."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import toys
from flax import nnx
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file
from tokenizers import Tokenizer

import instructblip_jax as ib
from instructblip_jax import embedded
from instructblip_jax.datasets.digits import naming
from instructblip_jax.mesh import single_device_mesh
from instructblip_jax.run.config import resolve

FOLDER = embedded.ASSETS / "digits_context"


def test_it_is_small_and_has_a_word_for_everything_that_its_records_say():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) < 600_000
    words = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    known = set(words.get_vocab())
    said = {word for name in naming.SIZES for one in naming.make(name, "test", 0, 20) for word in texts(one)}
    assert len(said) > 20
    assert {f"▁{word}" for word in {*said, *naming.NAMES}} <= known


def texts(record) -> list[str]:
    return " ".join([*record.answers, *(part for part in record.parts if isinstance(part, str))]).split()


def test_it_finds_in_its_context_what_a_thing_is_called(monkeypatch):
    """Chance is one half: with examples of other things alone it cannot know."""
    monkeypatch.syspath_prepend(str(toys.ROOT / "tools"))
    import digits_context

    model = ib.from_pretrained(embedded.model("digits-frozen"), single_device_mesh(), dtype="float32")
    params = unflatten_dict(dict(model.frozen), sep="/")["llm"]
    graph, _ = nnx.split(model.config.text.build(dtype="float32", rngs=nnx.Rngs(0)))
    words = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    monkeypatch.setattr(digits_context, "KINDS", {"digit": 1.0})
    right = digits_context.accuracy(graph, params, words, rows=100)
    assert min(right.values()) >= 0.85, right


@pytest.mark.parametrize("name", ["frozen", "flamingo"])
def test_what_is_made_of_it_reads_its_records(name):
    run = resolve(runpy.run_path(str(toys.ROOT / "configs" / f"digits_{name}.py"))["get_config"]())
    made = {key: x for path in Path(run.model).glob("*.safetensors") for key, x in load_file(path).items()}
    (same,) = (key for key in made if key.endswith("model.layers.2.mlp.up_proj.weight"))
    np.testing.assert_array_equal(
        made[same], load_file(FOLDER / "model.safetensors")["model.layers.2.mlp.up_proj.weight"]
    )
    processor = ib.Processor.from_pretrained(run.model, **run.system_options()).holding(run.data.pictures)
    for kind in (naming.SINGLE, naming.DIGITS, naming.COLOURS):
        for record in naming.make(kind, "train", 0, 20):
            assert len(processor.static_kinds(record.kinds)) in run.data.pictures
            row = processor.encode(record.instruction, record.answers[0], training=True, pictures=len(record.media))
            assert all(
                np.array(processor.lengths(row)) <= (run.data.instruction_lengths[0], run.data.response_lengths[0])
            )
