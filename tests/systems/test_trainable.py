"""Named trainable sets: what they hold, and that a misspelt one is refused."""

import checkpoints
import pytest

import instructblip_jax as ib
from instructblip_jax.convert.layouts import hf_instructblip
from instructblip_jax.mesh import single_device_mesh
from instructblip_jax.systems.build import abstract
from instructblip_jax.systems.instructblip import InstructBlipConfig
from instructblip_jax.systems.trainable import touches, trains


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Name -> paths that train, and all paths, of an InstructBLIP."""
    path = tmp_path_factory.mktemp("config") / "config.json"
    path.write_text(checkpoints.json.dumps(checkpoints.config_json(sizes=checkpoints.MINI)))
    config = hf_instructblip.read_config(path)
    out = {}
    for name in config.trainable_sets:
        _, train, frozen = abstract(config, mesh=single_device_mesh(), dtype="bfloat16", trainable=name)
        assert not train.keys() & frozen.keys()
        out[name] = set(train)
        out["all"] = set(train) | set(frozen)
    return out


def test_the_default_is_qformer_queries_and_projection(sets):
    firsts = {path.split("/")[0] for path in sets["qformer"]}
    assert firsts == {"qformer", "query_tokens", "projector"}
    assert sets["qformer"] == {path for path in sets["all"] if path.split("/")[0] in firsts}


def test_the_original_set_adds_exactly_the_norm_after_the_tower(sets):
    assert sets["original"] - sets["qformer"] == {"vit/post_norm/scale", "vit/post_norm/bias"}
    assert sets["qformer"] < sets["original"]


def test_projection_is_the_linear_map_alone(sets):
    assert sets["projection"] == {"projector/kernel", "projector/bias"}


def test_a_filter_takes_whole_path_parts_only():
    chosen = ib.trainable("qformer")
    assert chosen(("qformer", "norm", "scale"), None)
    assert not chosen(("qformer_other", "norm", "scale"), None)
    assert not chosen(("vit", "qformer"), None)


def test_a_star_stands_for_any_pieces_of_a_path():
    lora = ("llm/*/lora",)
    assert trains("llm/layers/attn/q/lora/a", lora)
    assert trains("llm/decoder/layers/3/ffn/up/lora/b", lora)
    assert not trains("llm/layers/attn/q/kernel", lora)
    assert not trains("vit/layers/attn/q/lora/a", lora)
    assert not touches("llm/layers", lora)  # adapters do not keep the layers beside them in one stack
    assert touches("llm/layers", ("llm/layers/ffn", *lora))
    assert touches("llm/layers", ("llm",))


def test_adapters_are_there_only_if_the_set_has_them(sets):
    assert {path for path in sets["all"] if "/lora/" in path} == sets["qformer_and_lora"] - sets["qformer"]
    assert not any("/lora/" in path for path in sets["original"] | sets["vision"])


def test_unknown_and_empty_sets_are_refused(sets, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"'qformr' is unknown; expected one of .*original, projection, .*qformer"):
        ib.trainable("qformr")
    path = tmp_path / "config.json"
    path.write_text(checkpoints.json.dumps(checkpoints.config_json(sizes=checkpoints.MINI)))
    sets = {"misspelt": ("qformer", "vit/postnorm")}
    monkeypatch.setattr(InstructBlipConfig, "trainable_sets", sets)
    with pytest.raises(ValueError, match="no parameter under 'vit/postnorm'"):
        abstract(hf_instructblip.read_config(path), mesh=single_device_mesh(), dtype="float32", trainable="misspelt")
