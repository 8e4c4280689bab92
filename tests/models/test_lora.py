"""Adapters of a language model: the formula, the frozen model that they begin as, and what they are merged into."""

from functools import cached_property

import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import instructblip_jax as ib
from instructblip_jax.convert import save
from instructblip_jax.mesh import make_mesh
from instructblip_jax.models.layers.int8 import quantize
from instructblip_jax.models.layers.lora import Lora, attach
from instructblip_jax.models.layers.primitives import linear
from instructblip_jax.sharding import Layout
from instructblip_jax.systems.build import abstract

SIZES = {"rank": 4, "alpha": 6}
SCALE = 1.5


def adapted(directory, **options):
    options = {"dtype": "float32", "trainable": "qformer_and_lora", "lora": SIZES} | options
    return ib.from_pretrained(directory, **options)


def move(model, seed=0) -> None:
    """Give every B values of its own."""
    rng = np.random.default_rng(seed)
    for path in sorted(model.train):
        if path.endswith("/lora/b"):
            old = model.train[path]
            model.train[path] = jax.device_put(0.1 * rng.standard_normal(old.shape, np.float32), old.sharding)


class Case:
    """A directory, a batch for it, and its model with adapters that do something."""

    def __init__(self, directory, family):
        raw = checkpoints.config_json("blip-2", sizes=checkpoints.MINI, family=family)
        self.directory = checkpoints.write(directory, raw, seed=4)
        self.batch = checkpoints.batch(raw, rows=8, seed=4)
        self.model = adapted(self.directory)
        self.fresh = dict(self.model.train)
        move(self.model)

    @cached_property
    def gradients(self):
        return ib.gradients(self.model, self.batch)


@pytest.fixture(scope="module", params=["llama", "t5", pytest.param("opt", marks=pytest.mark.reference)])
def case(request, tmp_path_factory):
    return Case(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return Case(tmp_path_factory.mktemp("alone"), "llama")


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_is_a_product_beside_the_kernel(int8, dtype):
    rng = np.random.default_rng(0)
    model = nnx.Dict(q=linear(24, 10, ("embed", "heads"), dtype=jnp.dtype(dtype), int8=int8, rngs=nnx.Rngs(0)))
    attach(model, Lora(3, 6.0), {"q_proj": "q"}, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(1))
    layer = model.q
    a, b = layer.lora.a, layer.lora.b
    assert (a.shape, b.shape) == ((24, 3), (3, 10))
    assert not b[...].any()
    assert 0.15 < np.abs(a[...]).max() < 24**-0.5
    # The rank is split where the kernel's own side is not.
    assert (a.get_metadata()["axes"], b.get_metadata()["axes"]) == (("embed", None), ("embed", "heads"))
    kernel = rng.standard_normal((24, 10)).astype(np.float32)
    if int8:
        rounded, steps = quantize(kernel)
        layer.kernel[...], layer.kernel_scale[...], kernel = jnp.asarray(rounded), jnp.asarray(steps), rounded * steps
    else:
        layer.kernel[...] = jnp.asarray(kernel)
    b[...] = jnp.asarray(rng.standard_normal((3, 10)), jnp.float32)
    x, weights = (rng.standard_normal((2, 5, size)).astype(np.float32) for size in (24, 10))
    tolerance = 1e-5 if dtype == "float32" else 0.02
    want = x @ kernel + 2.0 * (x @ a[...]) @ b[...]
    got = layer(jnp.asarray(x, dtype))
    assert got.dtype == jnp.dtype(dtype)
    np.testing.assert_allclose(np.asarray(got, np.float32), want, atol=tolerance * np.abs(want).max(), rtol=0)

    graph, rest = nnx.split(model)

    def loss(a, b):
        held = nnx.merge(graph, rest)
        held.q.lora.a, held.q.lora.b = (nnx.Param(x) for x in (a, b))
        return (held.q(jnp.asarray(x, dtype)) * weights).sum().astype(jnp.float32)

    first, second = np.asarray(a[...]), np.asarray(b[...])
    of_a, of_b = jax.grad(loss, argnums=(0, 1))(a[...], b[...])
    of_kernel = x.reshape(-1, 24).T @ weights.reshape(-1, 10)
    for got, want in ((of_a, 2.0 * of_kernel @ second.T), (of_b, 2.0 * first.T @ of_kernel)):
        np.testing.assert_allclose(got, want, atol=tolerance * np.abs(want).max(), rtol=0)


def test_every_linear_layer_of_the_blocks_and_nothing_else(case):
    model = case.model
    kernels = {path for path in model.frozen if path.startswith("llm/") and path.endswith("/kernel")}
    heads = {"llm/to_vocab/kernel", "llm/head/kernel"}
    adapters = {path.replace("/lora/a", "/kernel") for path in model.train if path.endswith("/lora/a")}
    assert adapters == kernels - heads
    for name, ours in model.config.text.linears.items():
        config = model.config.configured(lora=SIZES | {"targets": [name]})
        _, train, _ = abstract(config, mesh=model.mesh, dtype="bfloat16", trainable="qformer_and_lora")
        found = {path for path in train if "/lora/" in path}
        assert found == {path for path in model.train if f"/{ours}/lora/" in path} != set()
        assert all(kernel.endswith(f".{name}.weight") for kernel in kernel_names(case, found))


def kernel_names(case, adapters):
    """Hugging Face's names of the kernels beside these adapters."""
    rules = case.model.family.rules(case.model.config)
    return {rules[path.rpartition("/lora/")[0] + "/kernel"].theirs for path in adapters}


def test_they_begin_as_the_frozen_model_and_end_merged_into_it(case, tmp_path):
    model, batch = case.model, case.batch
    base = ib.from_pretrained(case.directory, dtype="float32")
    frozen, moved, train = np.asarray(base(batch)), np.asarray(model(batch)), model.train
    close = {"atol": 1e-5 * np.abs(moved).max(), "rtol": 0}
    assert np.abs(moved - frozen).max() > 0.1
    model.train = case.fresh
    np.testing.assert_allclose(model(batch), frozen, **close)
    model.train = train

    model.save_pretrained(tmp_path / "out")
    merged = ib.from_pretrained(tmp_path / "out", dtype="float32")
    changed = {path for path, x in merged.frozen.items() if not np.array_equal(x, base.frozen[path])}
    assert changed == {path.replace("/lora/a", "/kernel") for path in train if path.endswith("/lora/a")}
    base.train, base.frozen = merged.train, merged.frozen  # of the same shapes: compiled once
    np.testing.assert_allclose(base(batch), moved, **close)


def test_layers_that_are_apart_share_the_arrays_of_their_adapters(llama):
    apart = adapted(llama.directory, scan_layers=False)
    assert apart.train.keys() == llama.model.train.keys()
    assert any("/layers/0/" in path for path in apart.frozen)
    apart.train = llama.model.train
    same(ib.gradients(apart, llama.batch), llama.gradients)


def same(found, wanted):
    """Losses and gradients that agree within rounding."""
    assert float(found[0]) == pytest.approx(float(wanted[0]), rel=1e-5)
    for name, x in wanted[1].items():
        np.testing.assert_allclose(found[1][name], x, rtol=1e-4, atol=1e-5 * max(1.0, np.abs(x).max()))


def test_gradients_are_those_of_the_merged_kernels(case, tmp_path):
    """With W' = W + s B A the chain rule gives those of A and B; the kernels' own are PyTorch's."""
    pytest.importorskip("torch", reason="the live reference is transformers on PyTorch, which is not installed")
    import reference

    model, (value, grads) = case.model, case.gradients
    model.save_pretrained(tmp_path / "out")
    theirs = reference.load(tmp_path / "out")
    want = reference.answers(theirs, reference.inputs(theirs, case.batch), trained=("language_model.",))
    assert float(value) == pytest.approx(float(want["loss"]), rel=1e-5)
    trained = dict(save.tensors(model.family.rules(model.config), model.train))
    modules = {name.removesuffix(".lora_A.weight") for name in grads if name.endswith(".lora_A.weight")}
    assert len(modules) == sum(len(x) for path, x in model.train.items() if path.endswith("/lora/a"))
    for module in modules:
        of_kernel = want[f"grad/{module.removeprefix('base_model.model.')}.weight"]
        a, b = (trained[f"{module}.lora_{which}.weight"] for which in "AB")
        assert (a.shape, b.shape) == ((4, of_kernel.shape[1]), (of_kernel.shape[0], 4))
        for which, expected in (("A", SCALE * b.T @ of_kernel), ("B", SCALE * of_kernel @ a.T)):
            got = grads[f"{module}.lora_{which}.weight"]
            np.testing.assert_allclose(got, expected, atol=1e-4 * max(np.abs(expected).max(), 1e-3), rtol=0)


def test_over_an_int8_base(llama):
    narrow = adapted(llama.directory, int8=True)
    assert narrow.frozen["llm/layers/attn/q/kernel"].dtype == jnp.int8
    assert narrow.train["llm/layers/attn/q/lora/a"].dtype == jnp.float32
    narrow.train = llama.model.train
    (loss, grads), (want, wanted) = ib.gradients(narrow, llama.batch), llama.gradients
    assert float(loss) == pytest.approx(float(want), rel=0.02)
    for name, x in wanted.items():
        assert np.sqrt(np.mean((grads[name] - x) ** 2)) < 0.1 * np.sqrt(np.mean(x**2)) + 1e-6, name


def test_eight_devices_are_one_and_draw_the_same(llama):
    eight = adapted(llama.directory, mesh=make_mesh(data=2, fsdp=2, tensor=2), layout=Layout(llm="sharded"))
    assert checkpoints.leaves_equal(checkpoints.host(eight.train), checkpoints.host(llama.fresh))
    adapters = {path: x for path, x in eight.train.items() if "/lora/" in path}
    assert not any(x.sharding.is_fully_replicated for x in adapters.values())
    a = {path: np.asarray(x) for path, x in adapters.items() if path.endswith("/a")}
    assert len({float(x.sum()) for x in a.values()}) == len(a)  # each its own
    assert all(np.abs(x).max() < x.shape[1] ** -0.5 for x in a.values())
    move(eight)
    same(ib.gradients(eight, llama.batch), llama.gradients)


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        ({"rank": 0}, r"config\.system\.lora\.rank is 0; it is a whole number, at least 1"),
        ({"rank": 2.5}, r"config\.system\.lora\.rank is 2\.5"),
        ({"alpha": -1}, r"config\.system\.lora\.alpha is -1; it is a number above 0"),
        ({"targets": ["q_proj", "wq"]}, r"targets is \['q_proj', 'wq'\]; this language model has q_proj, k_proj, v_"),
        ({"r": 4}, r"config\.system\.lora is {'r': 4}; it is a mapping with the fields rank, alpha, targets"),
        (7, "config.system.lora is 7; it is a mapping"),
    ],
)
def test_sizes_that_cannot_be_are_refused_by_name(llama, lora, words):
    with pytest.raises(ValueError, match=words):
        adapted(llama.directory, lora=lora)


def test_the_defaults_are_llavas():
    assert Lora() == Lora(128, 256.0, ())
    assert Lora().scale == 2.0
