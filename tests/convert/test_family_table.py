"""The table of systems: a directory of a system that is not built, and names of trainable sets."""

import json

import checkpoints
import pytest
import toys

import instructblip_jax as ib
from instructblip_jax import families
from instructblip_jax.convert.layouts import hf_instructblip

BUILT = "the supported systems are " + ", ".join(sorted(families.FAMILIES))
UNKNOWN = {
    "another": ({"model_type": "kosmos-2.5"}, "model_type is 'kosmos-2.5'"),
    "none": ({}, "there is no model_type"),
    "null": ({"model_type": None}, "there is no model_type"),
    "a list": ({"model_type": ["blip-2"]}, r"model_type is \['blip-2'\]"),
}


@pytest.mark.parametrize("case", UNKNOWN)
@pytest.mark.parametrize("door", [ib.from_pretrained, ib.InstructBlip.from_pretrained, ib.Processor.from_pretrained])
def test_a_system_that_is_not_built_gets_one_line_with_those_that_are(tmp_path, door, case):
    raw, words = UNKNOWN[case]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=rf"^{tmp_path / 'config.json'}: {words}; {BUILT}$"):
        door(tmp_path)


@pytest.mark.parametrize(
    "architectures", [None, [], "Blip2Model", [3], ["Blip2Model"], ["Blip2ForConditionalGeneration"]]
)
def test_other_architectures_are_read_by_their_model_type(tmp_path, architectures):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "blip-2", "architectures": architectures}))
    assert families.family_of(tmp_path) is families.FAMILIES["blip-2"]


def test_an_architecture_may_be_another_system_than_its_model_type(tmp_path):
    raw = {"model_type": "blip-2", "architectures": ["Blip2ForImageTextRetrieval"]}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert families.family_of(tmp_path) is families.BLIP2_STAGE1
    assert not families.read_config(tmp_path).writes


def test_trainable_sets_are_a_systems(tmp_path):
    assert ib.trainable("qformer")(("query_tokens",), None)
    assert not ib.trainable("qformer")(("vit", "position"), None)
    assert families.trainable("vision", "blip-2")(("vit", "position"), None)
    assert ib.trainable("projector_and_llm")(("llm", "norm", "scale"), None)
    with pytest.raises(
        ValueError,
        match=r"'towers' is unknown; expected one of .*projection, projector, .*qformer, qformer_and_lora, .*vision",
    ):
        ib.trainable("towers")
    with pytest.raises(ValueError, match=rf"trainable: model_type is 'kosmos-2.5'; {BUILT}"):
        families.trainable("all", "kosmos-2.5")
    directory = toys.write_model(tmp_path)
    with pytest.raises(ValueError, match="'towers' is unknown"):
        ib.from_pretrained(directory, trainable="towers")


@pytest.mark.parametrize("family", ["t5", "llama", "opt"])
def test_what_may_lie_in_old_files_is_that_of_their_own_language_model(tmp_path, family):
    raws = {name: checkpoints.config_json("blip-2", checkpoints.MINI, name) for name in ("t5", "llama", "opt")}
    old = {name: set(checkpoints.legacy_tensors(Everything(), raw)) for name, raw in raws.items()}
    (tmp_path / "config.json").write_text(json.dumps(raws[family]))
    ignored = hf_instructblip.ignored(hf_instructblip.read_config(tmp_path / "config.json"))
    for name, tensors in old.items():
        own = {tensor for tensor in tensors if ignored.fullmatch(tensor)}
        assert own == (tensors if name == family else {x for x in tensors if x.startswith("qformer.")}), name
    assert ignored.fullmatch("qformer.embeddings.position_ids")
    assert bool(ignored.fullmatch("language_model.lm_head.weight")) == (family == "opt")


class Everything(dict):
    """Has every tensor."""

    def __contains__(self, name):
        return True

    def __missing__(self, name):
        return checkpoints.values(name, (8, 8), 0)
