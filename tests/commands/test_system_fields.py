"""Fields of a configuration that depend on the system: names that are filled in, and values that it refuses."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any

import pytest
from ml_collections import ConfigDict

from instructblip_jax import families
from instructblip_jax.model import Model
from instructblip_jax.run.check import fitted
from instructblip_jax.run.config import RunConfig, resolve
from instructblip_jax.systems.llava import LlavaConfig
from instructblip_jax.systems.trainable import check_int8


@pytest.fixture
def system(world):
    return families.read_config(world / "model")


@pytest.fixture
def run(world) -> RunConfig:
    return resolve(ConfigDict({"model": "M", "steps": 1, "batch_size": 2, "mixture": {"sets": ("count",)}}))


def test_the_trainable_set_gets_its_name(run, system):
    assert run.trainable == ""
    assert fitted(run, system) == dataclasses.replace(run, trainable="qformer")
    original = dataclasses.replace(run, trainable="original")
    assert fitted(original, system) == original


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"trainable": "everything"},
            "'everything' is unknown; expected one of original, projection, qformer, qformer_and_lora, vision",
        ),
        ({"layout": {"audio": "fsdp"}}, r"layout\.audio: this system has no such part; it has vit, llm, trained"),
        ({"data.features": "d", "trainable": "vision"}, r"config\.data\.features .* trainable 'vision' trains it"),
    ],
)
def test_what_does_not_fit_the_system_is_refused(run, system, changes, words):
    with pytest.raises(ValueError, match=words):
        fitted(changed(run, changes), system)


@pytest.mark.parametrize("int8", [True, "w8a8"])
def test_a_language_model_that_trains_is_not_rounded(run, int8):
    """Told by the run's field before anything is loaded, and by the keyword from Python."""
    config = types.SimpleNamespace(parts=LlavaConfig.parts, trainable_sets=LlavaConfig.trainable_sets)
    words = rf"config\.int8 is {int8!r}, and config\.trainable 'projector_and_llm' trains .*config\.int8 to False"
    with pytest.raises(ValueError, match=rf"{words}.*config\.trainable to one of projector"):
        fitted(changed(run, {"int8": int8, "trainable": "projector_and_llm"}), config)
    for allowed in ("projector", "projector_and_lora"):
        check_int8(int8, allowed, config.trainable_sets, config.parts)
    with pytest.raises(ValueError, match=r"^int8 is .*trainable 'all' trains.*int8 to False; to answer"):
        check_int8(int8, None, {"all": ("",)}, config.parts)


def test_a_loss_over_pairs_of_rows_refuses_accumulation_by_name(run, system):
    paired = types.SimpleNamespace(
        **{name: getattr(system, name) for name in ("parts", "trainable_sets")}, in_batch=True
    )
    assert fitted(run, paired).trainable == "qformer"
    with pytest.raises(ValueError, match=r"config\.optim\.accumulation is 2: the loss of M compares the rows"):
        fitted(changed(run, {"optim.accumulation": 2}), paired)
    assert fitted(changed(run, {"optim.accumulation": 2}), system).optim.accumulation == 2


def test_features_of_a_system_that_caches_none_are_refused(run, system):
    bare = types.SimpleNamespace(
        parts=system.parts, trainable_sets=system.trainable_sets, in_batch=False, feature_keys={}
    )
    with pytest.raises(ValueError, match=r"config\.data\.features is 'd': M has no cacheable features"):
        fitted(changed(run, {"data.features": "d"}), bare)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("--config.system.colour=3", "colour: this system has the options image_size, instruct_qformer and lora"),
        ("--config.system.instruct_qformer=3", "instruct_qformer is 3; it is True or False"),
        ("--config.layout.audio=fsdp", "layout.audio: this system has no such part; it has vit, llm, trained"),
        ("--config.trainable=some", "trainable set 'some' is unknown; expected one of original, projection, qformer, "),
    ],
)
def test_train_refuses_them_before_anything_is_loaded_or_written(cli, world, tmp_path, monkeypatch, override, words):
    monkeypatch.setattr(Model, "from_pretrained", lambda *_, **__: pytest.fail("the model was loaded"))
    result = cli("train", f"--config={world / 'tiny.py'}", f"--workdir={tmp_path / 'run'}", override)
    assert result.code == 1
    assert words in result.err
    assert result.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def changed(run: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """The run with other fields, such as "optim.accumulation"."""
    for path, value in changes.items():
        section, _, name = path.rpartition(".")
        if section:
            name, value = section, dataclasses.replace(getattr(run, section), **{name: value})
        run = dataclasses.replace(run, **{name: value})
    return run
