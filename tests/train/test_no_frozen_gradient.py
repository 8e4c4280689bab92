"""The step's program holds no gradient of a frozen weight, and no randomness outside the Q-Former's dropout.

Read from the jaxpr, where every operation stands. The mini model's sizes are such that no product of its forward pass
has the shape of a weight: a product of that shape is a weight's gradient.
"""

from collections import Counter
from functools import partial

import checkpoints
import jax
import pytest
import training
from jaxprs import equations

from instructblip_jax.convert.layouts import hf_instructblip
from instructblip_jax.mesh import single_device_mesh
from instructblip_jax.systems.build import abstract, merge
from instructblip_jax.systems.instructblip import QFORMER, InstructBlipConfig
from instructblip_jax.train.optimizer import optimizer
from instructblip_jax.train.step import init_state, make_step


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return checkpoints.write(tmp_path_factory.mktemp("model"), training.config_json(), seed=31)


def program(directory, trainable="qformer", dropout=0.1):
    """The model and its step's jaxpr; nothing is compiled or run."""
    raw = training.config_json(dropout=dropout)
    (directory / "config.json").write_text(checkpoints.json.dumps(raw))
    model = training.load(directory, trainable=trainable)
    state, step = training.start(model)
    # 5 rows: no product of rows, lengths and queries is a width of the model.
    jaxpr = jax.make_jaxpr(step)(state, model.frozen, checkpoints.batch(raw, rows=5, text=11, answer=7))
    return model, list(equations(jaxpr.jaxpr))


def weight_gradients(model, eqns) -> Counter:
    """Which weights, of what trains and of what is frozen, some operation makes an array of the shape of."""
    made = Counter()
    for equation in eqns:
        if equation.primitive.name in ("dot_general", "scatter-add", "scatter_add"):
            made[equation.outvars[0].aval.shape] += 1
    found = Counter()
    for path, x in (model.train | model.frozen).items():
        if path.endswith(("kernel", "embedding", "relative")):
            stacked = "/layers/" in path or path.startswith("qformer/cross_attention")
            shape = x.shape[1:] if stacked else x.shape
            found[path] = made[shape] + (made[shape[::-1]] if shape != shape[::-1] else 0)
    return found


def test_only_trained_weights_get_a_gradient(directory):
    model, eqns = program(directory)
    found = weight_gradients(model, eqns)
    with_gradient = {path for path, times in found.items() if times}
    frozen, trained = ({path for path in found if path in part} for part in (model.frozen, model.train))
    assert len(frozen) > 20
    assert not with_gradient & frozen
    # the search does see gradients where there are some, all of them
    assert trained <= with_gradient


@pytest.mark.parametrize(
    ("prefix", "weight"),
    [
        ("llm/head", "llm/head/kernel"),
        ("llm/shared", "llm/shared/embedding"),
        ("llm/encoder", "llm/encoder/layers/ffn/up/kernel"),
        ("llm/decoder", "llm/decoder/layers/cross_attention/attn/k/kernel"),
        ("llm/encoder", "llm/encoder/relative"),
    ],
)
def test_the_search_finds_a_frozen_weight_that_was_made_to_train(directory, monkeypatch, prefix, weight):
    sets = InstructBlipConfig.trainable_sets | {"more": (*QFORMER, prefix)}
    monkeypatch.setattr(InstructBlipConfig, "trainable_sets", sets)
    model, eqns = program(directory, trainable="more")
    assert weight in model.train
    assert weight_gradients(model, eqns)[weight]


@pytest.mark.parametrize(("trainable", "backward"), [("qformer", 0), ("original", 2)])
def test_no_gradient_enters_the_vision_tower(directory, trainable, backward):
    """Products with a row for every patch: six a block and the patches themselves. Where the norm after the tower
    trains, its gradient comes through the keys and values of the one cross-attention, and goes no further."""
    model, eqns = program(directory, trainable=trainable)
    assert ("vit/post_norm/scale" in model.train) == (trainable == "original")
    patches = model.config.vision.grid**2
    of_tower = [e for e in eqns if e.primitive.name == "dot_general" and rows_of_tower(e, 5, patches)]
    assert len(of_tower) == 1 + 6 + backward


def rows_of_tower(equation, batch: int, patches: int) -> bool:
    """Whether a product's result has a row for every patch of every picture, or is between patches."""
    shape, width = equation.outvars[0].aval.shape, checkpoints.MINI["vision_config"]["hidden_size"]
    inner = checkpoints.MINI["vision_config"]["intermediate_size"]
    return shape in {(batch * n, w) for n in (patches, patches + 1) for w in (width, inner)}


def test_the_compiled_step_needs_no_room_for_gradients_or_copies_of_the_frozen_part(tmp_path):
    """Memory analysis, from shapes alone: results are the trained state, temporaries far less than the frozen weights.
    (Activations are recomputed: with rows this few and layers this wide they would be as many.)"""
    raw = checkpoints.config_json("blip-2", sizes=checkpoints.MINI, d_ff=10_000, num_layers=40, num_decoder_layers=40)
    (tmp_path / "config.json").write_text(checkpoints.json.dumps(raw))
    config, mesh = hf_instructblip.read_config(tmp_path / "config.json"), single_device_mesh()
    graph, train, frozen = abstract(config, mesh=mesh, dtype="float32", trainable="qformer", remat="layer")
    tx = optimizer(training.FAST, 100)
    state = jax.eval_shape(lambda train: init_state(train, tx), train)
    step = make_step(partial(merge, graph), tx, seed=0)
    batch = checkpoints.batch(raw, rows=1, text=2, answer=2)
    memory = step.lower(state, frozen, batch).compile().memory_analysis()
    of_state, of_frozen = nbytes(state), nbytes(frozen)
    assert of_frozen > 300e6
    assert memory.output_size_in_bytes < of_state + 10_000
    assert memory.alias_size_in_bytes >= of_state  # the new state lies where the old one was
    assert memory.temp_size_in_bytes < of_frozen / 10


def draws(jaxpr) -> bool:
    return any(e.primitive.name == "random_bits" for e in equations(jaxpr))


def nbytes(tree) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def test_dropout_is_in_the_qformer_and_nowhere_else(directory):
    def masks(dropout):
        _, eqns = program(directory, dropout=dropout)
        return [e for e in eqns if e.primitive.name in ("random_bits", "threefry2x32", "shift_right_logical")]

    assert not masks(0.0)
    bits = [e.outvars[0].aval.shape for e in masks(0.1) if e.primitive.name == "random_bits"]
    # After the embeddings; of each attention's weights and of its output; of each feed-forward's output.
    assert len(bits) == 1 + (2 + 2) + 2
    # Layer 0 has self- and cross-attention, layer 1 only self-attention; both have two feed-forwards.
    _, eqns = program(directory)
    runs = [e.params["length"] for e in eqns if e.primitive.name == "scan" and draws(e.params["jaxpr"].jaxpr)]
    assert sorted(runs) == [1, 1, 1, 2, 2, 2, 2]  # the first is that of the embeddings
