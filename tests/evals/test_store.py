"""Predictions of a set in a workdir: an interrupted evaluation goes on, a finished one is not repeated."""

import pytest

from instructblip_jax.evals.store import PredictionStore
from instructblip_jax.run.workdir import Workdir

NAME = "vsr:zeroshot/test"
FILE = "vsr_zeroshot_test"


@pytest.fixture
def workdir(tmp_path) -> Workdir:
    return Workdir(str(tmp_path))


def files(workdir: Workdir) -> set[str]:
    return {path.name for path in (workdir.path / "predictions").iterdir()}


def test_what_was_written_before_an_interruption_is_there_after_it(workdir):
    store = PredictionStore(workdir, NAME, "key")
    assert store.count == 0
    store.add(['{"uid": "a"}', '{"uid": "b"}'])
    store.add([])
    store.add(['{"uid": "c"}'])
    assert files(workdir) == {f"{FILE}.state.json", f"{FILE}.part-00000.jsonl", f"{FILE}.part-00001.jsonl"}
    again = PredictionStore(workdir, NAME, "key")
    assert again.count == 3
    lines = again.finish(['{"uid": "d"}'])
    assert lines == [f'{{"uid": "{uid}"}}' for uid in "abcd"]
    assert files(workdir) == {f"{FILE}.state.json", f"{FILE}.jsonl"}
    assert (workdir.path / "predictions" / f"{FILE}.jsonl").read_text().splitlines() == lines


def test_a_finished_set_is_read_and_not_written(workdir):
    PredictionStore(workdir, NAME, "key").finish(["1", "2"])
    before = (workdir.path / "predictions" / f"{FILE}.jsonl").stat().mtime
    store = PredictionStore(workdir, NAME, "key")
    assert (store.count, store.finish([])) == (2, ["1", "2"])
    assert (workdir.path / "predictions" / f"{FILE}.jsonl").stat().mtime == before


@pytest.mark.parametrize(("key", "again", "count"), [("key", False, 2), ("other", False, 0), ("key", True, 0)])
@pytest.mark.parametrize("whole", [True, False])
def test_predictions_with_another_key_are_dropped(workdir, whole, key, again, count):
    store = PredictionStore(workdir, NAME, "key")
    (store.finish if whole else store.add)(["1", "2"])
    store = PredictionStore(workdir, NAME, key, again=again)
    assert store.count == count
    if not count:
        assert store.finish(["3"]) == ["3"]
        assert files(workdir) == {f"{FILE}.state.json", f"{FILE}.jsonl"}
    assert PredictionStore(workdir, "vsr", "key").count == 0  # each set has its own
