"""Worked examples in two processes: the scores, and the kept predictions, of one."""

import json
import shutil

import pytest

pytestmark = pytest.mark.long


def test_two_processes_answer_as_one_does(world, mini, process, start, tmp_path):
    fields = {"model": mini("frozen"), "steps": 1, "mixture.sets": "caption,", "data.templates": "instructions"}
    fields |= {"evaluation.held_in": "caption,digit_at", "evaluation.held_out": "()", "evaluation.batch_size": 8}
    fields |= {"evaluation.shots": "(0,2)", "evaluation.few_shot.seeds": 2, "evaluation.few_shot.pool": 12}
    fields |= {
        "evaluation.few_shot.controls": "('wrong','blank')",
        "evaluation.settings": "{'caption': {'num_beams': 1}}",
    }
    given = [f"--config={world}/tiny.py", *(f"--config.{name}={x}" for name, x in fields.items())]
    trained = process("train", *given, f"--workdir={tmp_path / 'one'}")
    assert trained.code == 0, trained.err
    told = {}
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for name in ("one", "two"):
        line = ["evaluate", *given, f"--workdir={tmp_path / name}", f"--json={tmp_path / name}.json"]
        results = [process(*line)] if name == "one" else start(2, *line).wait()
        assert [result.code for result in results] == [0] * len(results), results
        sets = json.loads((tmp_path / f"{name}.json").read_text())["sets"]
        kept = [(tmp_path / name / "predictions" / f"digit_at@{shots}.jsonl").read_text() for shots in (0, 2)]
        told[name] = sets, kept
    assert told["one"] == told["two"]
