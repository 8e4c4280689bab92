"""Every field of a configuration arrives where it has an effect.

With each one off its default, what `train`, `evaluate` and `answer` assemble is looked at before anything is computed.
"""

import dataclasses
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from every_field import OFF
from PIL import Image

from instructblip_jax.commands import answer, evaluate, train
from instructblip_jax.data.documents import DocumentsConfig
from instructblip_jax.datasets.digits.templates import PLAIN
from instructblip_jax.model import Model
from instructblip_jax.plan import chips, flops
from instructblip_jax.processors.augment import AugmentConfig
from instructblip_jax.processors.fast_resize import FastImageProcessor
from instructblip_jax.run import open_data
from instructblip_jax.run.config import RunConfig
from instructblip_jax.run.workdir import Workdir
from instructblip_jax.sharding import Layout
from instructblip_jax.train.examples import LoggedExamples
from instructblip_jax.train.optimizer import OptimConfig, schedule


def fields(cls: type = RunConfig, prefix: str = "") -> Iterator[str]:
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            yield from fields(typing.cast(type, hint), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def test_no_field_is_left_out_here():
    assert set(OFF) == set(fields())
    required = ("model", "batch_size", "data.directory", "mixture.sets", "evaluation.held_in", "evaluation.held_out")
    for name in OFF.keys() - set(required) - {"steps", "wandb", "data.features", "data.pictures", "mixture.groups"}:
        *parts, last = name.split(".")
        cls: Any = RunConfig
        for part in parts:
            cls = typing.get_type_hints(cls)[part]
        (field,) = (field for field in dataclasses.fields(cls) if field.name == last)
        made = field.default_factory
        default = made() if made is not dataclasses.MISSING else field.default  # type: ignore[misc]
        assert default != OFF[name], name


class Enough(ValueError):
    """All was assembled."""


class Spy:
    """Takes the place of functions; what each was given and gave is kept by its name, that of the last call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.monkeypatch = monkeypatch
        self.given: dict[str, Mapping[str, Any]] = {}
        self.gave: dict[str, Any] = {}

    def on(self, owner: Any, name: str, instead: Callable | None = None) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.given[name] = {"args": args, **kwargs}
            self.gave[name] = (instead or real)(*args, **kwargs)
            return self.gave[name]

        self.monkeypatch.setattr(owner, name, call)


@pytest.fixture
def off(world, tmp_path):
    """The configuration file, off every default."""
    pytest.importorskip("cykooz_resizer", reason="data.resize=fast needs the extra fast")
    groups = {name: {} for name in ("mesh", "optim", "mixture")}
    groups |= {"data": {"augment": {}, "documents": {}}, "evaluation": {"few_shot": {}}}
    lines = [
        "from ml_collections import ConfigDict",
        "def get_config():",
        f"    config = ConfigDict({groups})",
        *(f"    config.update_from_flattened_dict({{{name!r}: {value!r}}})" for name, value in OFF.items()),
        "    return config",
    ]
    path = tmp_path / "off.py"
    path.write_text("\n".join(lines).replace("{world}", str(world)))
    return path


def stop(*_: Any, **__: Any) -> Any:
    raise Enough("enough")


@pytest.fixture
def assembled(cli, off, tmp_path, monkeypatch) -> Spy:
    """The objects that `train` made, up to its first step."""
    spy = Spy(monkeypatch)
    spy.on(open_data, "training_batches")
    for name in ("optimizer", "make_step"):
        spy.on(train, name)
    spy.on(Model, "from_pretrained")
    spy.on(train.validation, "prepare", lambda *_, **__: "the validation")
    spy.on(flops, "of_batch", lambda *_: 7.0)
    spy.on(train.loop, "run", stop)
    spy.on(Workdir, "checkpoints")
    monkeypatch.setattr(chips, "chip_of", lambda kind: types.SimpleNamespace(bf16=1e12))
    result = cli("train", f"--config={off}", f"--workdir={tmp_path / 'run'}")
    assert result.err.endswith("train: enough\n"), result.err
    spy.out = result.out
    return spy


def test_every_field_of_train_has_its_effect(assembled, world):
    given, gave = assembled.given, assembled.gave
    model = gave["from_pretrained"]
    assert given["from_pretrained"] == {
        "args": (f"{world}/model", model.mesh),
        "dtype": "float32",
        "trainable": "original",
        "instruct_qformer": False,
        "layout": Layout(trained="replicated", vit="fsdp", llm="tensor"),
        "remat": "layer",
        "int8": True,
        "scan_layers": False,
        "image_size": 32,
    }
    assert dict(model.mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}

    # Data: sizes 40, 16 and 8; that of caption counts as 12, that of count twice.
    batches = given["training_batches"]
    sources, shares, processor, templates = batches["args"]
    assert {name: len(source) for name, source in sources.items()} == {
        "caption": 40,
        "count": 16,
        "digit_at:validation": 8,
    }
    assert shares == {"caption": 12 / 52, "count": 32 / 52, "digit_at:validation": 8 / 52}
    assert "mixture: caption 23.1 %, count 61.5 %, digit_at:validation 15.4 %\n" in assembled.out
    assert processor.image.height == 32
    assert isinstance(processor.image, FastImageProcessor)
    assert processor.augment == AugmentConfig(0.5, True, 2, 7, True)
    assert templates is PLAIN
    assert batches["batch_size"] == 16
    assert (batches["instruction_lengths"], batches["response_lengths"]) == ((8, 48), (12, 30))
    assert (batches["seed"], batches["window"], batches["blank_image"]) == (12, 6, True)
    assert batches["documents"] == DocumentsConfig(20, 3, True, 0.25, True, True)
    assert len(batches["shapes"]) == 2
    assert max(batches["shapes"]) == (48, 30)
    assert "text shapes: " in assembled.out

    # The step. 1.3 times 64 records in batches of 16 are 5.2 batches, so 6 steps.
    rates, more = {"projector": 0.5}, ("linear", ("qformer",))
    optim = OptimConfig(0.25, 2, 0.125, 0.0625, 0.3, 0.6, 0.7, 1e-3, 0.5, 2, 4.0, rates, *more)
    assert given["optimizer"]["args"] == (optim, 6)
    step = given["make_step"]
    assert step["args"][1] is gave["optimizer"]
    assert (step["seed"], step["accumulation"], step["spike_factor"]) == (12, 2, 4.0)
    assert [float(step["rate"](n)) for n in range(7)] == [float(schedule(optim, 6)(n)) for n in range(7)]
    assert step["compiler_options"] == model.compiler_options != None  # noqa: E711

    # The loop.
    state, frozen, step_fn, data, _, job = given["run"]["args"]
    assert (state["train"], frozen, step_fn) == (model.train, model.frozen, gave["make_step"])
    assert (job.start, job.steps, job.log_every, job.checkpoint_every) == (0, 6, 3, 11)
    assert given["checkpoints"]["keep"] == 5
    assert isinstance(data, LoggedExamples)
    assert (job.validate, job.validate_every) == ("the validation", 6)
    held = given["prepare"]
    assert held["args"][2].keys() == {"caption", "count"}  # the third is trained on
    assert (held["args"][0], held["args"][3]) == (model, PLAIN)
    assert held["args"][1].image == processor.resizing("exact").image
    assert not held["args"][1].augments
    assert held["documents"] == batches["documents"]
    assert (held["rows"], held["shapes"], held["seed"], held["blank_image"]) == (8, batches["shapes"], 12, True)

    # A run uses a share of what all of its eight devices can do together.
    assert job.meter.peak_flops == 8e12
    assert job.meter.flops_per_batch({"x": (16,)}) == 7.0
    assert given["of_batch"]["args"] == (model, {"x": (16,)})


@pytest.mark.parametrize(("every", "asked"), [("0", False), ("-1", True)])
def test_validation_is_asked_for_or_not(cli, off, tmp_path, monkeypatch, every, asked):
    spy = Spy(monkeypatch)
    spy.on(train.validation, "prepare", lambda *_, **__: "the validation")
    spy.on(train.loop, "run", stop)
    override = (f"--config.validate_every={every}", "--config.steps=45", "--config.epochs=0.0")
    assert cli("train", f"--config={off}", f"--workdir={tmp_path / 'run'}", *override).code == 1
    job = spy.given["run"]["args"][-1]
    assert ("prepare" in spy.given) == asked
    assert job.validate == ("the validation" if asked else None)
    assert job.validate_every == 4  # ten times a run


@pytest.mark.parametrize(
    ("steps", "epochs", "records", "want"), [(0, 1.0, 17, 3), (0, 1.0, 16, 2), (0, 0.1, 16, 1), (7, 0.0, 16, 7)]
)
def test_the_last_batch_of_an_epoch_counts(steps, epochs, records, want):
    run = types.SimpleNamespace(steps=steps, epochs=epochs, batch_size=8)
    assert open_data.total_steps(run, records) == want


def test_the_fields_that_evaluate_reads_have_their_effect(cli, assembled, off, world, tmp_path, monkeypatch):
    spy = Spy(monkeypatch)
    spy.on(evaluate.Model, "from_pretrained")
    spy.on(evaluate.Processor, "from_pretrained")
    spy.on(evaluate, "evaluation_batches")
    spy.on(evaluate, "answered", stop)
    monkeypatch.setattr(Workdir, "restore_into", lambda *_: 5)
    given = (f"--config={off}", f"--workdir={tmp_path / 'run'}", "--split=validation")
    refused = cli("evaluate", *given)
    assert "config.evaluation.shots: this system takes one picture per row" in refused.err
    result = cli("evaluate", *given, "--config.evaluation.shots=()")
    assert result.err.endswith("evaluate: enough\n"), result.err
    model, processor, _, how, *_ = spy.given["answered"]["args"]
    assert dict(model.mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert model.config.instruct_qformer is False
    assert model.config.vision.image_size == processor.image.height == 32
    assert not isinstance(processor.image, FastImageProcessor)
    assert {x.dtype.name for path, x in model.frozen.items() if path.startswith("llm/")} >= {"int8", "float32"}
    assert "vit/post_norm/scale" in model.train
    assert spy.given["answered"]["blank_image"] is True
    assert spy.given["answered"]["blind"] is False
    assert (how.num_beams, how.max_new_tokens) == (3, 9)
    batches = spy.given["evaluation_batches"]
    assert (batches["batch_size"], batches["instruction_lengths"]) == (4, (8, 48))


def test_answer_reads_the_run_that_it_is_given(cli, assembled, world, tmp_path, monkeypatch):
    picture = tmp_path / "picture.png"
    Image.new("RGB", (20, 30), "red").save(picture)
    spy = Spy(monkeypatch)
    spy.on(answer, "answer", stop)
    monkeypatch.setattr(Workdir, "restore_into", lambda *_: 5)
    given = (f"--model={world / 'model'}", f"--workdir={tmp_path / 'run'}", f"--image={picture}")
    assert cli("answer", *given, "how many ?").err.endswith("answer: enough\n")
    model, processor, *_ = spy.given["answer"]["args"]
    assert model.config.instruct_qformer is False
    assert model.config.vision.image_size == processor.image.height == 32
    assert "vit/post_norm/scale" in model.train
    assert {x.dtype.name for x in model.frozen.values()} == {"float32"}
