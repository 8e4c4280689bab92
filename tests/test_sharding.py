"""Where parameters lie in each layout, and which layouts there are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from instructblip_jax.mesh import make_mesh
from instructblip_jax.sharding import LAYOUTS, Layout, constrain, in_use, laid_out, partition_spec


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(data=2, fsdp=2, tensor=2)


@pytest.mark.parametrize(
    ("layout", "spec"),
    [
        ("replicated", P(None, None, None)),
        ("fsdp", P(None, ("fsdp", "tensor"), None)),
        ("tensor", P(None, None, ("tensor",))),
        ("sequence", P(None, None, ("tensor",))),
        ("sharded", P(None, ("fsdp",), ("tensor",))),
        ("zero", P(None, ("data", "fsdp", "tensor"), None)),
    ],
)
def test_a_stacked_kernel(mesh, layout, spec):
    assert partition_spec(("layers", "embed", "mlp"), (3, 8, 12), mesh, layout) == spec


def test_a_dimension_takes_the_first_axes_that_divide_it(mesh):
    rows = {n: partition_spec(("batch",), (n,), mesh, "replicated")[0] for n in (16, 4, 6, 3)}
    assert rows == {16: ("data", "fsdp", "tensor"), 4: ("data", "fsdp"), 6: "data", 3: None}
    assert partition_spec(("embed", "vocab"), (7, 33), mesh, "sharded") == P(None, None)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_layout_splits_two_dimensions_of_an_array_over_one_mesh_axis(mesh, layout):
    for axes in [("embed", "heads"), ("mlp", "embed"), ("vocab", "embed"), ("batch", "length", None)]:
        spec = partition_spec(axes, (64,) * len(axes), mesh, layout)
        used = [name for part in spec for name in ((part,) if isinstance(part, str) else part or ())]
        assert len(used) == len(set(used))


def test_parts_lie_as_their_layouts_say():
    layout = Layout(trained="fsdp", vit="replicated", llm="tensor")
    paths = ("vit/layers/up/kernel", "llm/head/kernel", "qformer/norm/scale", "query_tokens", "projector/bias")
    assert [layout.of_path(path, ("vit", "llm")) for path in paths] == ["replicated", "tensor", "fsdp", "fsdp", "fsdp"]


def test_an_unknown_layout_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"layout\.llm 'pieces' is unknown; expected one of replicated, fsdp"):
        Layout(llm="pieces")


def test_a_part_that_the_system_has_not_is_refused_with_those_it_has():
    Layout(trained="fsdp", llm="tensor").check(("vit", "llm"))
    with pytest.raises(ValueError, match=r"layout\.audio: this system has no such part; it has vit, llm, trained"):
        Layout(audio="tensor").check(("vit", "llm"))


def test_activations_follow_the_layout_in_force(mesh):
    def rows(layout):
        @jax.jit
        def run(x):
            with laid_out(layout):
                return constrain(x, "batch", "length", None)

        with jax.set_mesh(mesh):
            return run(jax.numpy.ones((8, 4, 2))).sharding.spec

    assert rows("replicated") == P(("data", "fsdp", "tensor"))
    assert rows("sequence") == P(("data", "fsdp"), "tensor")


def test_a_trained_parameter_is_used_whole_and_its_gradient_lies_in_the_pieces_of_its_master(mesh):
    home = partition_spec(("embed", "mlp"), (8, 4), mesh, "zero")
    master = jax.device_put(jnp.linspace(0, 1, 32).reshape(8, 4), NamedSharding(mesh, home))
    used = {}

    @jax.jit
    def run(master):
        def loss(master):
            x = in_use(master, jnp.bfloat16, home)
            jax.debug.inspect_array_sharding(x, callback=lambda sharding: used.update(x=sharding))
            return jnp.sum(jnp.square(x.astype(jnp.float32)))

        return jax.grad(loss)(master)

    with jax.set_mesh(mesh):
        gradient = run(master)
    assert used["x"].is_fully_replicated
    assert gradient.sharding == master.sharding
    assert gradient.dtype == jnp.float32
    np.testing.assert_array_equal(gradient, (2 * master.astype(jnp.bfloat16)).astype(jnp.float32))
