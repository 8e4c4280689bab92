"""`instructblip prepare NAME --source …`, with a small data set in place of the public ones."""

import json
import sys

import array_record.python.array_record_data_source  # noqa: F401  (its flags stay)
import pytest
from absl import flags
from preparing import rows, write_source

from instructblip_jax.__main__ import main
from instructblip_jax.data import prepared
from instructblip_jax.datasets.draft import Release
from instructblip_jax.datasets.readers import custom
from instructblip_jax.datasets.readers.releases import RELEASES


@pytest.fixture
def command(capfd, monkeypatch):
    """Runs `instructblip prepare`; of its flags nothing stays. The data set `tiny` is known."""
    asked = []

    def splits(source, images):
        asked.append((source, list(images)))
        return {"val": lambda: rows(source), "test-dev": lambda: rows(source, 10)}

    monkeypatch.setitem(RELEASES, "tiny", Release(splits, {"val": 70}, lambda source: ["yes", "no"]))
    before = set(flags.FLAGS)

    def run(*argv):
        capfd.readouterr()
        try:
            code = main(["instructblip", "prepare", *map(str, argv)])
        finally:
            for name in set(flags.FLAGS) - before:
                delattr(flags.FLAGS, name)
            flags.FLAGS.unparse_flags()
        return code, *capfd.readouterr()

    run.asked = asked
    return run


def test_a_release_is_written_and_what_was_skipped_is_told(command, tmp_path):
    source, report = write_source(tmp_path / "s", 60, bad=9), tmp_path / "report.json"
    (tmp_path / "i").mkdir()
    line = ("tiny", f"--source={source}", f"--out={tmp_path / 'o'}", f"--json={report}", f"--images={tmp_path / 'i'}")
    code, out, err = command(*line, f"--images={source}")
    assert code == 0, err
    assert command.asked[-1] == (source, [tmp_path / "i", source])
    told = json.loads(report.read_text())
    assert told["splits"]["val"]["written"] == len(prepared.open_set(tmp_path / "o", "tiny", "val")) == 52
    assert told["splits"]["val"]["skipped"] == 8
    assert told["splits"]["val"]["reasons"] == {"missing picture": 7, "empty answer": 1}
    assert len(prepared.open_set(tmp_path / "o", "tiny", "test-dev")) == told["splits"]["test-dev"]["written"] > 40
    assert "rows.jsonl:1: " in out
    assert "and 2 more" in out  # the first five of seven
    assert "rows.jsonl:14: r13" in out
    assert "60 rows of the 70 of the release; a partial download?" in out
    assert f"report: {tmp_path / 'o' / 'tiny' / '3.0.0'}/report.json" in out
    code, out, err = command(*line, f"--images={source}")
    assert code == 0, err
    assert "already complete" in out
    assert json.loads(report.read_text())["splits"] == told["splits"]


def test_what_is_wrong_is_told_in_a_line(command, tmp_path):
    source, out = write_source(tmp_path / "s", 60, bad=9), f"--out={tmp_path / 'o'}"
    code, _, err = command("tiny", f"--source={source}", out, "--max_skipped=0.05")
    assert code == 1
    assert "more than --max_skipped 0.05" in err.strip().splitlines()[-1]
    assert not prepared.is_prepared(tmp_path / "o", "tiny")
    for wrong, said in (
        (("tiny", out), "--source is needed"),
        (("tiny", f"--source={source}"), "--out is needed"),
        (("tinny", out), "there is no dataset 'tinny'; tiny?"),
        (("tiny", f"--source={source}", out, "--frames=0"), "frames"),
        (("tiny", f"--source={source}", out, "--encoding=latin-1"), "--encoding is only for custom datasets"),
        (("digits", f"--source={source}", out), "takes no --source"),
    ):
        code, _, err = command(*wrong)
        assert (code, said in err) == (2, True), err
    code, _, err = command("tiny", f"--source={tmp_path / 'nowhere'}", out)
    assert (code, err.count("\n")) == (1, 1)
    assert str(tmp_path / "nowhere") in err


def test_flags_of_custom_sets_are_handed_on(command, tmp_path, monkeypatch):
    """To `readers.custom.release`, with the set's name; another value of one is another configuration."""
    source = write_source(tmp_path / "my-pictures", 20)
    seen = []

    def release(source, images, **options):
        seen.append((source, images, options))
        return Release(lambda source, images: {"train": lambda: rows(source)})

    monkeypatch.setattr(custom, "release", release)
    given = (f"--source={source}", f"--out={tmp_path / 'o'}", "--validation=0.1", "--encoding=latin-1")
    code, _, err = command("custom", *given)
    assert code == 0, err
    options = {"name": "my_pictures", "format": None, "encoding": "latin-1", "validation": 0.1}
    assert seen == [(source, [], options)]
    assert len(prepared.open_set(tmp_path / "o", "my_pictures", "train")) == 19
    code, _, err = command("custom", *given, "--name=mine")
    assert code == 0, err
    assert len(prepared.open_set(tmp_path / "o", "mine", "train")) == 19


def test_without_beam_the_extra_is_named(command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    source = write_source(tmp_path / "s", 10)
    code, _, err = command("tiny", f"--source={source}", f"--out={tmp_path / 'o'}", "--beam=--runner=DirectRunner")
    assert code == 1
    assert "pip install -e '.[beam]'" in err
