"""The fields of a run's configuration that decide what `evaluate` loads and asks: each reaches its place."""

import importlib
import runpy
from types import SimpleNamespace

import jax
import pytest

from instructblip_jax.commands.evaluate import key_of
from instructblip_jax.evals.pairs import Prediction
from instructblip_jax.evals.suite import SUITE, EvalSpec
from instructblip_jax.mesh import make_mesh
from instructblip_jax.run.config import resolve
from instructblip_jax.run.workdir import Workdir
from instructblip_jax.sharding import Layout

CONFIG = """
from instructblip_jax.recipes.instructblip import own_data

def get_config():
    config = own_data("{model}", sets=("count",))
    config.data.directory, config.data.instruction_lengths = "{sets}", (56,)
    config.evaluation.batch_size = 4
    {line}
    return config
"""
LAYOUT = Layout(trained="zero", vit="replicated", llm="replicated")
MODEL = {"trainable": "qformer", "int8": False, "remat": "none", "scan_layers": None}
"""Arguments of the model if no field is set."""


class SeenError(Exception):
    """Stops where the model would be loaded."""


@pytest.fixture
def evaluate(cli, world, tmp_path):
    def run(line, *flags):
        path = tmp_path / "own.py"
        path.write_text(CONFIG.format(model=world / "model", sets=world / "sets", line=line))
        Workdir(str(tmp_path / "run")).claim(resolve(runpy.run_path(str(path))["get_config"]()))
        return cli("evaluate", f"--config={path}", f"--workdir={tmp_path / 'run'}", *flags)

    return run


@pytest.mark.parametrize(
    ("line", "flags", "want"),
    [
        ("", (), {}),
        ("config.system.instruct_qformer = False", (), {"instruct_qformer": False}),
        ("config.instruct_qformer = False", (), {"instruct_qformer": False}),
        ("config.remat = 'layer'", (), {}),
        ("config.int8 = True", (), {"int8": True}),
        ("config.int8 = 'w8a8'", (), {"int8": "w8a8"}),
        ("", ("--int8",), {"int8": True}),
        ("config.int8 = 'w8a8'", ("--int8",), {"int8": "w8a8"}),
        ("config.image_size = 32", (), {"image_size": 32}),
        ("config.trainable = 'projection'", (), {"trainable": "projection"}),
    ],
)
def test_the_model_is_loaded_as_the_run_says(evaluate, monkeypatch, line, flags, want):
    module, seen = importlib.import_module("instructblip_jax.commands.evaluate"), []

    def load(model, mesh, **options):
        seen.append(options)
        raise SeenError

    monkeypatch.setattr(module.Model, "from_pretrained", load)
    assert evaluate(line, *flags).code == 1
    (options,) = seen
    assert options == {"dtype": "bfloat16", "layout": LAYOUT} | MODEL | want


@pytest.mark.parametrize(
    ("line", "want"),
    [
        ("", {"blind": True, "blank_image": False}),
        ("config.data.blank_image = True", {"blind": True, "blank_image": True}),
        ("config.evaluation.blind = False", {"blind": False, "blank_image": False}),
    ],
)
def test_pictures_are_blanked_as_the_run_says(evaluate, world, monkeypatch, line, want):
    module, seen = importlib.import_module("instructblip_jax.commands.evaluate"), []
    model = SimpleNamespace(mesh=make_mesh(1, 1, 1, jax.devices()[:1]), directory=world / "model", train={})
    monkeypatch.setattr(module, "load", lambda *_: (model, 1))

    def answered(model, processor, batches, how, vocabulary, **options):
        seen.append(options)
        for batch in batches:
            yield [(record, Prediction("1"), Prediction("1") if options["blind"] else None) for record in batch.records]

    monkeypatch.setattr(module, "answered", answered)
    result = evaluate(line)
    assert result.code == 0, result.err
    assert seen == [want]


def test_predictions_of_before_there_was_retrieval_are_still_found():
    data = SimpleNamespace(blank_image=False, instruction_lengths=(32,))
    config = SimpleNamespace(int8=True, evaluation=SimpleNamespace(blind=False), data=data)

    def key(spec):
        return key_of(config, SimpleNamespace(spec=spec, identity="set"), "weights")

    # Computed by the version that had neither "rerank" nor the mode "retrieval".
    assert key(SUITE["gqa"]) == "031cfa223dcf7508c54b32ad64e731d764d42cb452b98430a2cef76b8eb4f42e"
    assert len({key(EvalSpec(mode="retrieval", rerank=count)) for count in (0, 128, 256)}) == 3
