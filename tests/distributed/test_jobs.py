"""One, two and four processes: the same losses, predictions, answers and files; killed, and started on fewer."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

STEPS = 25  # with a checkpoint every seven steps
ONE_LINE = "start the job again: it resumes from the last checkpoint"


def command(name: str, world: Path, workdir: Path, *more: str) -> list[str]:
    own = [f"--config={world}/tiny.py", f"--workdir={workdir}", f"--config.steps={STEPS}", "--config.log_examples=True"]
    return [name, *own, f"--json={workdir}.{name}.json", *more]


def report(workdir: Path, name: str = "train") -> dict:
    return json.loads(Path(f"{workdir}.{name}.json").read_text())


def done(results) -> list:
    """All have ended well, and only the first one talked."""
    assert [result.code for result in results] == [0] * len(results), results
    assert not any(result.out or result.err for result in results[1:])
    return results


def examples(workdir: Path) -> dict[int, dict[int, str]]:
    """Step -> row -> uid, by the last start that made the step; all hosts that hold a row agree on it."""
    steps: dict[int, tuple[int, dict[int, str]]] = {}
    for path in sorted((workdir / "examples").iterdir()):
        start = int(path.name.split("-")[1])
        for line in path.read_text().splitlines():
            if not line.endswith("}"):  # of a process that was killed while it wrote
                continue
            entry = json.loads(line)
            if steps.get(entry["step"], (-1,))[0] != start:
                steps[entry["step"]] = (start, {})
            known = steps[entry["step"]][1]
            for row, uid in zip(entry["rows"], entry["uid"], strict=True):
                assert known.setdefault(row, uid) == uid
    return {step: rows for step, (_, rows) in steps.items()}


def logged(workdir: Path, lines: int):
    log = workdir / "metrics.jsonl"
    return lambda: log.exists() and log.read_bytes().count(b"\n") >= lines


@pytest.fixture(scope="module")
def one(process, world, tmp_path_factory):
    """The workdir of a run by one process with two devices."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    result = process(*command("train", world, workdir), devices=2)
    assert result.code == 0, result.err
    return workdir


def test_two_processes_do_what_one_does(start, process, world, one, tmp_path):
    two = tmp_path / "two"
    done(start(2, *command("train", world, two)).wait())
    np.testing.assert_allclose(report(two)["losses"], report(one)["losses"], rtol=2e-5)
    assert examples(two) == examples(one)
    assert len(report(two)["losses"]) == STEPS

    # The predictions of these weights, in batches that the four devices do not divide.
    sizes = ("--config.evaluation.batch_size=6", "--config.mesh.fsdp=2")
    done(start(2, *command("evaluate", world, two, *sizes)).wait())
    both = {path.name: path.read_text() for path in (two / "predictions").glob("*.jsonl")}
    table = report(two, "evaluate")
    alone = process(*command("evaluate", world, two, "--again"), devices=2)
    assert alone.code == 0, alone.err
    assert {path.name: path.read_text() for path in (two / "predictions").glob("*.jsonl")} == both
    assert report(two, "evaluate")["sets"] == table["sets"]
    uids = [json.loads(line)["uid"] for line in both["count.jsonl"].splitlines()]
    assert len(uids) == len(set(uids)) == table["sets"]["count"]["count"] == 8

    # Answers, and the directory for transformers.
    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(picture)
    ask = ["answer", f"--model={world}/model", f"--workdir={two}", f"--image={picture}", "--num_beams=2"]
    ask += ["--max_new_tokens=6", "how many digits are there ?", "which digit is top-left ?"]
    answered = done(start(2, *ask).wait())[0].out
    assert answered.count("\n") == 2
    assert answered == process(*ask).out
    written = [tmp_path / "by-two", tmp_path / "by-one"]
    export = ["export", f"--model={world}/model", f"--workdir={two}"]
    done(start(2, *export, f"--out={written[0]}").wait())
    assert process(*export, f"--out={written[1]}").code == 0
    names = sorted(path.name for path in written[1].iterdir())
    assert sorted(path.name for path in written[0].iterdir()) == names
    by_two, by_one = (
        {n: (out / n).read_bytes().replace(out.name.encode(), b"NAME") for n in names if (out / n).is_file()}
        for out in written
    )
    assert by_two == by_one  # but for the directory's name in the model card

    # Killed, the first one, which the others meet at; and started again.
    again = tmp_path / "again"
    job = start(2, *command("train", world, again))
    assert job.kill(0, logged(again, 10)) < 60
    survivor = job.results()[1]
    assert survivor.code not in (0, None)
    assert ONE_LINE in survivor.err.splitlines()[-1]
    assert not (again / "train.json").exists()
    result = done(start(2, *command("train", world, again)).wait())[0]
    assert "from step" in result.out
    assert report(again)["weights_sha256"] == report(two)["weights_sha256"]
    assert report(again)["losses"] == report(two)["losses"]


@pytest.mark.long
def test_four_processes_of_which_one_is_killed_go_on_as_two(start, world, one, tmp_path):
    """On another mesh, too. No example is lost, and none comes twice."""
    workdir = tmp_path / "run"
    mesh = ("--config.mesh.fsdp=2", "--config.mesh.tensor=2")
    job = start(4, *command("train", world, workdir, *mesh))
    assert job.kill(2, logged(workdir, 17)) < 60
    for result in job.results():
        assert result.code not in (0, None)
    assert all(ONE_LINE in result.err.splitlines()[-1] for n, result in enumerate(job.results()) if n != 2)
    before = examples(workdir)
    assert len(list((workdir / "examples").iterdir())) == 4
    result = done(start(2, *command("train", world, workdir)).wait())[0]
    begun = int(result.out.split("from step ")[1].split()[0])
    assert begun in (7, 14)
    seen = examples(workdir)
    assert seen == examples(one)
    assert list(seen) == sorted(seen) == list(range(1, STEPS + 1))
    assert all(sorted(rows) == list(range(8)) for rows in seen.values())
    assert all(before[step] == seen[step] for step in range(1, 18))
    visits = Counter(uid for rows in seen.values() for uid in rows.values())
    assert set(visits) == {f"{name}/train/{n}" for name, size in SIZES.items() for n in range(size)}
    np.testing.assert_allclose(report(workdir)["losses"], report(one)["losses"], rtol=2e-5)


SIZES = {"caption": 40, "digit_at": 24, "count": 16}
