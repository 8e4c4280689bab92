"""The notebooks in launch/: how they begin, and each from top to bottom over few steps; most are `long`."""

import json

import nbformat
import pytest
import toys
from nbclient import NotebookClient

from instructblip_jax.datasets.digits import naming
from instructblip_jax.datasets.digits.tasks import HELD_IN

NOTEBOOKS = sorted((toys.ROOT / "launch").glob("*.ipynb"))


def code(notebook) -> list:
    return [cell for cell in notebook.cells if cell["cell_type"] == "code"]


def shown(*cells) -> str:
    """The printed text of cells, and the types of their displayed outputs."""
    outputs = [output for cell in cells for output in cell["outputs"]]
    return "\n".join(output.get("text", "") + " ".join(output.get("data", {})) for output in outputs)


def test_all_notebooks_begin_alike_and_hold_no_outputs():
    """They are opened one by one, so each installs the package and shows the devices itself, by the same two cells."""
    read = [nbformat.read(path, as_version=4) for path in NOTEBOOKS]
    assert len(read) == 4
    for notebook in read:
        nbformat.validate(notebook)
        assert [cell["source"] for cell in code(notebook)[:2]] == [cell["source"] for cell in code(read[0])[:2]]
        assert not any(cell["outputs"] or cell["execution_count"] for cell in code(notebook))
    setup, devices = (cell["source"] for cell in code(read[0])[:2])
    assert 'REPOSITORY = ""  # @param' in setup  # a form field on Colab
    assert "jax.devices()" in devices
    assert "WARNING" in devices


@pytest.fixture
def execute(environment, tmp_path, monkeypatch):
    """Runs a notebook of launch/ in an empty directory, with these environment variables; returns its code cells."""

    def run(name: str, **variables: object):
        for key, value in {**environment(), **variables}.items():
            monkeypatch.setenv(key, str(value))
        monkeypatch.delenv("MPLBACKEND", raising=False)
        notebook = nbformat.read(toys.ROOT / "launch" / f"{name}.ipynb", as_version=4)
        client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
        done = client.execute()
        assert all(cell["execution_count"] for cell in code(done))
        return code(done)

    return run


def test_own_pictures_are_tuned_on_evaluated_asked_about_and_exported(execute, tmp_path):
    out = shown(*execute("own_pictures", COUNT=10, STEPS=4))
    assert "WARNING: this is a CPU" in out
    assert "trained to step 4" in out
    assert out.count("image/png") == 3  # four pictures, the loss, the picture that is asked about
    assert "held-in" in (tmp_path / "runs" / "own" / "evaluation.md").read_text()
    assert "model-index" in (tmp_path / "tuned" / "README.md").read_text()


@pytest.mark.long
def test_a_model_is_asked_and_its_queries_are_looked_at(execute, tmp_path):
    data = toys.write_sets(tmp_path / "sets", dict.fromkeys(HELD_IN, 8))
    out = shown(*execute("ask_and_look", STEPS=20, DATA=data))
    assert "list all digits with place and colour  ->  " in out
    assert "(16, 6, 6) queries" in out
    assert "mean difference of the maps: 0" in out
    assert out.count("image/png") == 5


@pytest.mark.long
def test_flamingo_is_shown_names_in_its_prompt(execute, tmp_path):
    data = toys.write_sets(tmp_path / "sets", dict.fromkeys(naming.SIZES, 16), make=naming.make)
    out = shown(*execute("few_shot", STEPS=10, DATA=data))
    assert "naming_colours" in out
    assert "the third, which is red, is" in out
    assert out.count("image/png") == 4


@pytest.mark.long
def test_the_demo_is_tuned_evaluated_and_asked(execute, tmp_path):
    data = toys.write_sets(tmp_path / "sets", dict.fromkeys([*HELD_IN, "digit_of"], 8))
    _, devices, scene, tuning, plot, judged, asked, _ = map(shown, execute("colab", STEPS=20, DATA=data))
    assert "cpu" in devices.lower()
    assert "scene.png: " in scene
    assert "image/png" in scene
    assert "trained to step 20" in tuning
    assert "image/png" in plot
    assert "text/markdown" in judged
    assert "image/png" in asked
    report = json.loads((tmp_path / "runs" / "notebook" / "evaluation.json").read_text())
    assert report["step"] == 20
