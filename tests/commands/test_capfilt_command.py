"""`capfilt`: its report, its set, what it refuses, and what another threshold costs."""

import json

import pytest

from instructblip_jax.commands import capfilt
from instructblip_jax.data.prepared import open_set


@pytest.fixture
def line(blips, web, tmp_path):
    """Makes a command line."""

    def make(*more: str) -> list[str]:
        models = [f"--captioner={blips[0]}", f"--filter={blips[1]}", "--dtype=float32"]
        rest = [f"--source={web / 'pairs'}", f"--out={tmp_path / 'sets'}", "--batch_size=4", "--max_new_tokens=6"]
        return ["capfilt", *models, *rest, f"--json={tmp_path / 'report.json'}", *more]

    return make


def test_the_set_its_report_and_another_threshold(cli, line, tmp_path, monkeypatch):
    result = cli(*line("--threshold=0"))
    assert result.code == 0, result.err
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["read"], report["written"], report["reasons"]) == (11, 10, {"not a picture": 1})
    assert report["pictures"] == {"judged": 10, "with_text": 10, "with_both": 10}
    assert report["texts"] == {source: {"kept": 10, "dropped": 0} for source in ("web", "synthetic")}
    assert "10 of 10 pictures keep a text, 10 of them both kinds" in result.out
    assert "texts                kept      dropped\nweb                    10            0\n" in result.out
    records = open_set(tmp_path / "sets", "capfilt_pairs", "train")[:]
    assert [record.answers[0] for record in records] == [f"{n} digits in a picture" for n in range(11) if n != 5]
    assert all(record.meta["sources"] == ["web", "synthetic"] for record in records)
    example = report["examples"][0]
    assert example["uid"] == records[0].uid
    assert [text["text"] for text in example["texts"]] == list(records[0].answers)
    rounded = [round(text["probability"], 6) for text in example["texts"]]
    assert rounded == records[0].meta["probabilities"]

    # Once more, and with another threshold: no model is loaded.
    monkeypatch.setattr(capfilt.Model, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
    again = cli(*line("--threshold=0"))
    assert again.code == 0, again.err
    assert "already complete, left unchanged" in again.out
    refused = cli(*line())
    assert refused.code == 1
    assert "was made with a different threshold; --overwrite makes it again" in refused.err
    middle = sorted(text["probability"] for row in report["examples"] for text in row["texts"])[5]
    other = cli(*line(f"--threshold={middle!r}", "--keep=1", "--overwrite"))
    assert other.code == 0, other.err
    fewer = open_set(tmp_path / "sets", "capfilt_pairs", "train")[:]
    assert 0 < len(fewer) < 10
    assert all(len(record.answers) == 1 and record.meta["probabilities"][0] > middle - 1e-6 for record in fewer)
    assert "no text is kept" in other.out
    assert cli(*line("--threshold=1", "--overwrite")).err.endswith(
        "rows were skipped (10 no text is kept, 1 not a picture)\n"
    )


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        ("--source=nowhere", 2, "nowhere: no such file or directory"),
        ("--filter=", 2, "--filter is needed"),
        ("--top_p=2", 2, "top_p is 2.0; it must be a probability"),
        ("--threshold=2", 2, "threshold"),
        ("--name=gqa", 1, "--name gqa: is the name of a known dataset"),
        ("--name=1a", 1, "'1a' cannot be a set's name"),
        ("--filter=nowhere", 1, "nowhere: no such model directory"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_computed(cli, line, monkeypatch, more, code, words):
    monkeypatch.setattr(capfilt.Model, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
    result = cli(*line(more))
    assert (result.code, result.err.count("\n")) == (code, 1)
    assert words in result.err


def test_a_system_that_compares_nothing_is_no_filter(cli, line, world):
    result = cli(*line(f"--filter={world / 'model'}"))
    assert result.code == 1
    assert "model: this model does not compare images with texts" in result.err


@pytest.mark.long
def test_train_takes_the_set(cli, line, train, tmp_path):
    assert cli(*line("--threshold=0")).code == 0
    own = ("--config.mixture.sets=capfilt_pairs", f"--config.data.directory={tmp_path / 'sets'}", "--config.steps=2")
    trained, losses = train(tmp_path / "run", *own)
    assert trained.code == 0, trained.err
    assert len(losses["losses"]) == 2


def test_a_system_that_writes_nothing_is_no_captioner(cli, line, blips):
    result = cli(*line(f"--captioner={blips[1]}"))
    assert result.code == 1
    assert result.err == f"instructblip capfilt: --captioner {blips[1]}: this system generates no text\n"
