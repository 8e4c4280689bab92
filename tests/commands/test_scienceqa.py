"""docs/scienceqa.md: its three forms from the files of the release to the table, and its configuration.

The model is a stand-in that writes what it is given; all else is the commands' own.
"""

import importlib
import json
import re
import runpy
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import toys

from instructblip_jax.evals.pairs import Prediction
from instructblip_jax.mesh import make_mesh
from instructblip_jax.processor import Processor
from instructblip_jax.recipes.public import PUBLIC
from instructblip_jax.run.check import fitted
from instructblip_jax.run.config import resolve
from instructblip_jax.run.open_data import open_data
from instructblip_jax.run.workdir import Workdir

PAGE = (toys.ROOT / "docs" / "scienceqa.md").read_text(encoding="utf-8")
CONFIG = toys.ROOT / "configs" / "scienceqa.py"
MESH = make_mesh(1, 1, 1, jax.devices()[:1])
FORMS = ("a", "ale", "lea")
SHARED = {"choices": ["cork", "stone", "leaf"], "question": "Which sinks?", "image": None, "split": "test"}
PROBLEMS = {
    "4": SHARED | {"answer": 1, "hint": "A jar.", "grade": "grade3", "subject": "natural science"},
    "7": SHARED | {"answer": 0, "hint": "", "grade": "grade9", "subject": "language science"},
    "8": SHARED | {"answer": 2, "hint": "", "grade": "grade12", "subject": "natural science"},
}
TOLD = {"lecture": "Dense things sink.\nLight ones float.", "solution": "Stone is dense."}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model's directory without weights."""
    directory = tmp_path_factory.mktemp("model")
    toys.write_processor(directory)
    return directory


@pytest.fixture
def prepare(cli, tmp_path):
    """Prepares a form by the page's command; the directory of the sets."""
    trained = {pid: PROBLEMS[like] | {"split": "train"} for pid, like in (("1", "4"), ("2", "7"))}
    rows = {pid: row | TOLD for pid, row in {**trained, **PROBLEMS}.items()}
    (tmp_path / "problems.json").write_text(json.dumps(rows))

    def run(name):
        (command,) = re.findall(r"^instructblip (prepare .*)$", PAGE, re.MULTILINE)
        line = command.replace("scienceqa_qcm_lea", name).replace("DIR", str(tmp_path))
        result = cli(*line.replace("--out data", f"--out {tmp_path / 'data'}").split())
        assert result.code == 0, result.err
        return tmp_path / "data"

    return run


@pytest.fixture
def writes(monkeypatch, model):
    """Puts a stand-in in place of the model, which writes what ``said`` makes of a record."""
    module = importlib.import_module("instructblip_jax.commands.evaluate")
    stand_in = SimpleNamespace(mesh=MESH, directory=model, train={})
    monkeypatch.setattr(module, "load", lambda config, workdir, step: (stand_in, 7))

    def replace(said):
        def answered(model, processor, batches, how, vocabulary, *, blind, blank_image):
            assert blind is False
            for batch in batches:
                yield [(record, Prediction(said(record)), None) for record in batch.records]

        monkeypatch.setattr(module, "answered", answered)

    return replace


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_prepared_drawn_and_judged(cli, prepare, writes, model, tmp_path, form):
    name, out = f"scienceqa_qcm_{form}", tmp_path / "run"
    sets = prepare(name)
    config = runpy.run_path(str(CONFIG))["get_config"](form)
    config.model, config.data.directory, config.data.shapes, config.batch_size = str(model), str(sets), 0, 2
    run = resolve(config)
    batch = next(open_data(run, Processor.from_pretrained(model), MESH).batches())
    assert set(batch["uid"]) <= {f"{name}/train/1", f"{name}/train/2"}
    assert batch["passed"] == []
    assert (np.asarray(batch["labels"]) >= 0).any(axis=1).all()

    Workdir(str(out)).claim(run)
    # The first problem's own target is right, "B" is wrong for the second, and the third's text says nothing.
    writes(lambda record: {"4": record.answers[0], "7": "B", "8": "well"}[record.question_id])
    given = (f"--config.model={model}", f"--config.data.directory={sets}")
    fewer = ("--config.data.shapes=0", "--config.batch_size=2")
    result = cli("evaluate", f"--config={CONFIG}:{form}", f"--workdir={out}", *given, *fewer)
    assert result.code == 0, result.err
    columns = "|  | NAT | SOC | LAN | TXT | IMG | NO | G1-6 | G7-12 | Avg |\n"
    assert columns in PAGE
    row = f"| {name} | 50.00 |  | 0.00 | 100.00 |  | 0.00 | 100.00 | 0.00 | 33.33 |\n"
    for text in (result.out, (out / "evaluation.md").read_text()):
        assert columns in text
        assert row in text
    told = json.loads((out / "evaluation.json").read_text())["sets"][name]
    assert (told["metric"], told["details"]["no_letter"]) == ("scienceqa", 1 / 3)
    kept = lines(out / "predictions" / f"{name}.jsonl")
    assert [one["classes"] for one in kept] == [["NAT", "TXT", "G1-6"], ["LAN", "NO", "G7-12"], ["NAT", "NO", "G7-12"]]


def test_anybodys_predictions_are_scored_beside_the_releases_own_problems(cli, tmp_path):
    references = [row | {"id": pid} for pid, row in PROBLEMS.items()]
    written = [{"id": 4, "prediction": "The answer is B."}, {"id": "7", "prediction": "The answer is B."}]
    ranked = [{"id": "4", "scores": [0, 2, 1]}, {"id": "8", "scores": [0, 0, 1]}]
    for file, rows in (("problems", references), ("predictions", written), ("ranked", ranked)):
        (tmp_path / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (command,) = re.findall(r"^instructblip (score .*)$", PAGE, re.MULTILINE)
    command = re.sub(r"(\w+)\.jsonl", rf"{tmp_path}/\1.jsonl", command)
    result = cli(*command.split(), f"--json={tmp_path / 'out.json'}")
    assert result.code == 0, result.err
    assert "| **scienceqa** | **33.33** |" in result.out
    table = [line.split("|")[1:3] + line.split("|")[4:5] for line in result.out.splitlines() if "| classes" in line]
    assert [[cell.strip() for cell in line] for line in table] == [
        ["classes NAT", "50.00", "2"],
        ["classes LAN", "0.00", "1"],
        ["classes TXT", "100.00", "1"],
        ["classes NO", "0.00", "2"],
        ["classes G1-6", "100.00", "1"],
        ["classes G7-12", "0.00", "2"],
    ]
    result = cli("score", "accuracy", *command.replace("predictions.jsonl", "ranked.jsonl").split()[2:])
    assert result.code == 0, result.err
    assert "| **accuracy** | **66.67** |" in result.out
    assert "| classes NAT | 100.00 | | 2 |" in result.out


def test_the_configuration_fits_every_public_model_that_has_a_language_model():
    for form in FORMS:
        run = resolve(runpy.run_path(str(CONFIG))["get_config"](form))
        assert (run.mixture.sets, run.evaluation.held_in) == (
            (f"scienceqa_qcm_{form}:train",),
            (f"scienceqa_qcm_{form}",),
        )
        assert (run.steps, run.checkpoint_every) == (12 * 199, 199)
        for system in (one for one in PUBLIC.values() if "llm" in one.parts):
            assert fitted(run, system).trainable == next(iter(system.trainable_sets))
    with pytest.raises(ValueError, match=r"no variant 'al'; it has a, ale, lea"):
        runpy.run_path(str(CONFIG))["get_config"]("al")
