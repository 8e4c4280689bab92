"""The Colab notebook, executed from top to bottom as it is, over few steps and few scenes."""

import json

import nbformat
import pytest
import toys
from nbclient import NotebookClient

from instructblip_jax.data.digits.tasks import HELD_IN

STEPS = 20


@pytest.fixture
def executed(environment, tmp_path, monkeypatch):
    """The notebook after its run in an empty directory, and that directory."""
    data = toys.write_sets(tmp_path / "sets", dict.fromkeys([*HELD_IN, "digit_of"], 8))
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("STEPS", str(STEPS))
    monkeypatch.setenv("DATA", str(data))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook = nbformat.read(toys.ROOT / "launch" / "colab.ipynb", as_version=4)
    nbformat.validate(notebook)
    (tmp_path / "there").mkdir()
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path / "there")}})
    return client.execute(), tmp_path / "there"


def shown(cell) -> str:
    """What a cell printed, and the kinds of what it displayed."""
    texts = [output.get("text", "") + " ".join(output.get("data", {})) for output in cell["outputs"]]
    return "\n".join(texts)


def test_the_notebook_runs_from_top_to_bottom(executed):
    notebook, directory = executed
    code = [cell for cell in notebook.cells if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
    _, devices, scene, tuning, plot, judged, asked, _ = map(shown, code)
    assert "cpu" in devices.lower()
    assert "scene.png: " in scene
    assert "image/png" in scene
    assert f"trained to step {STEPS}" in tuning
    assert "image/png" in plot
    assert "text/markdown" in judged
    assert "image/png" in asked
    report = json.loads((directory / "runs" / "notebook" / "evaluation.json").read_text())
    assert report["step"] == STEPS
