"""The public retrieval checkpoints of BLIP-2 at full size, described without memory: transformers' own list of tensors.

Skipped where torch is not installed.
"""

import json
import math

import pytest

from instructblip_jax.convert.layouts import hf_blip2_retrieval
from instructblip_jax.mesh import make_mesh
from instructblip_jax.recipes.public import NEW, PUBLIC
from instructblip_jax.systems.build import abstract

pytest.importorskip("torch", reason="the list of tensors is that of transformers on PyTorch, which is not installed")
import torch
from transformers import Blip2Config, Blip2ForImageTextRetrieval

SIDES = {"blip2-itm-vit-g": 224, "blip2-itm-vit-g-coco": 364}


def shapes(config) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that the table asks for."""
    rules, found = hf_blip2_retrieval.rules(config), {}
    _, train, frozen = abstract(config, mesh=make_mesh(data=1, fsdp=4, tensor=2), dtype="bfloat16")
    for path, leaf in (train | frozen).items():
        found |= dict.fromkeys(rules[path].names(leaf.shape), rules[path].tensor_shape(leaf.shape))
    assert rules.keys() == (train | frozen).keys()
    return found


@pytest.mark.parametrize("name", SIDES)
def test_every_public_tensor_with_its_shape_and_no_other(tmp_path, name):
    raw = {
        "architectures": ["Blip2ForImageTextRetrieval"],
        "model_type": "blip-2",
        "image_text_hidden_size": 256,
        "num_query_tokens": 32,
        "qformer_config": {"model_type": "blip_2_qformer", "vocab_size": 30523, "use_qformer_text_input": True},
        "vision_config": {"model_type": "blip_2_vision_model", "image_size": SIDES[name]},
    }
    (tmp_path / "config.json").write_text(json.dumps(raw))
    config = hf_blip2_retrieval.read_config(tmp_path / "config.json")
    assert config == PUBLIC[f"Salesforce/{name}"]
    with torch.device("meta"):
        theirs = Blip2ForImageTextRetrieval(Blip2Config(**raw))
    want = {key: tuple(x.shape) for key, x in theirs.state_dict().items() if not key.endswith("position_ids")}
    ours = shapes(config)
    assert ours.pop("temp") == ()  # in no public file
    assert ours == want
    if SIDES[name] == 224:
        assert sum(map(math.prod, want.values())) == 1_172_032_258
        assert len(want) == 809


def test_a_new_first_stage_also_has_temperature_and_head():
    more = shapes(NEW["blip2-stage1-new"]).keys() - shapes(PUBLIC["Salesforce/blip2-itm-vit-g"]).keys()
    head = {f"transform.{name}.{part}" for name in ("dense", "LayerNorm") for part in ("weight", "bias")} | {"bias"}
    assert more == {f"cls.predictions.{name}" for name in head}
