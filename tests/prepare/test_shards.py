"""Sets are written by all processes, go on where they were killed, and are the same however they were written."""

import json
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import replace
from functools import partial

import psutil
import pytest
from preparing import draft, encoded, killed_at_every_step, noise, prepare, rows, splits, start, tree, write_source

from instructblip_jax.data import prepared
from instructblip_jax.data.places import directory_of, incomplete, is_prepared
from instructblip_jax.data.record import Medium, Record
from instructblip_jax.datasets.draft import Media, Skip
from instructblip_jax.datasets.prepare import shards
from instructblip_jax.datasets.prepare.pool import Pool, here


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(shards, "SMALLEST", 16)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("source") / "s", 330, bad=7)


@pytest.fixture(scope="module")
def undisturbed(source, tmp_path_factory):
    """The files of the set, written in one go."""
    out = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SMALLEST", 16)
        prepare(source, out, 1)
    return tree(directory_of(out, "own"))


def expected(source, start=0):
    """uids of the rows that can be read, and the reasons of the others."""
    uids, reasons = [], Counter()
    for row in rows(source, start):
        if isinstance(row, Skip):
            reasons[row.reason] += 1
        elif not row.media[0].path.exists():
            reasons["missing picture"] += 1
        else:
            uids.append(row.record.uid)
    return uids, dict(reasons)


def test_every_row_is_a_record_or_reported_in_order(source, tmp_path, small_shards):
    report = shards.write(tmp_path, "own", splits(source), shards.Options(), 1)
    uids, reasons = expected(source)
    assert report.splits["train"].reasons == reasons
    train = prepared.open_set(tmp_path, "own", "train")
    assert [train[n].uid for n in range(len(train))] == uids
    assert train[0].media == (Medium("image", (source / "1.png").read_bytes()),)
    later, later_reasons = expected(source, 20)
    assert len(prepared.open_set(tmp_path, "own", "test-dev")) == len(later)
    assert report.splits["test-dev"].reasons == later_reasons
    assert report.splits["test-dev"].files == "test_dev"
    assert report.splits["test-dev"].repeated == len(list(rows(source, 20))) - later_reasons["empty answer"]
    directory = directory_of(tmp_path, "own")
    told = json.loads((directory / "report.json").read_text())
    assert told["splits"]["train"]["skipped"] == sum(reasons.values()) == report.splits["train"].skipped
    assert [len(first) for first in told["splits"]["train"]["first"].values()] == [
        min(5, reasons[reason]) for reason in told["splits"]["train"]["first"]
    ]
    skipped = [json.loads(line) for line in (directory / "skipped.jsonl").read_text().splitlines()]
    assert Counter(row["reason"] for row in skipped if row["split"] == "train") == reasons
    assert skipped[0] == {
        "split": "train",
        "where": "rows.jsonl:1",
        "reason": "missing picture",
        "detail": str(source / "gone.png"),
    }
    assert [path.name for path in directory.parent.iterdir()] == ["3.0.0"]
    text = "\n".join(report.lines())
    assert "rows.jsonl:1: " in text
    assert f"{directory}/report.json" in text
    assert "called test_dev in the files" in text


def test_processes_write_the_same_bytes_as_one(source, tmp_path, small_shards, undisturbed):
    prepare(source, tmp_path, 2)
    assert tree(directory_of(tmp_path, "own")) == undisturbed
    assert len([name for name in undisturbed if "train.array_record" in name]) > 15


def test_a_kill_before_any_change_of_a_name_costs_nothing(source, tmp_path, undisturbed):
    """From the first shard's to the directory's own."""
    process = start("killed", source, tmp_path)
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    assert int(said.split()[-1]) > 15
    assert tree(directory_of(tmp_path, "own")) == undisturbed
    assert not incomplete(tmp_path, "own").exists()


def test_the_kills_do_kill(tmp_path):
    """Were they not survived by what was done before, the loop would not end; that they come at all is seen here."""

    def attempt():
        for number in range(3):
            (tmp_path / "a").write_text("")
            os.replace(tmp_path / "a", tmp_path / str(number))

    assert killed_at_every_step(attempt) == 3


def test_a_killed_pool_ends_and_the_set_goes_on(tmp_path, small_shards):
    """A kill while two processes write; none of them stays behind."""
    large, finished = write_source(tmp_path / "large", 1200, bad=7), 4
    process = start("prepare", large, tmp_path / "out", 2)
    work = incomplete(tmp_path / "out", "own")
    deadline = time.monotonic() + 120
    while len(list(work.glob("*.0*.json"))) < finished and time.monotonic() < deadline:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    kept = {path: path.stat().st_mtime_ns for path in work.glob("*.0*.json")}
    assert len(kept) >= finished
    lines = []
    options = shards.Options(log=lines.append)
    report = shards.write(tmp_path / "out", "own", splits(large), options, 2)
    assert "going on" in lines[0]
    assert report.splits["train"].rows == 1200
    prepare(large, tmp_path / "again", 1)
    assert tree(directory_of(tmp_path / "out", "own")) == tree(directory_of(tmp_path / "again", "own"))


def test_finished_shards_are_not_written_again(source, tmp_path, small_shards):
    def broken(limit):
        for number, row in enumerate(rows(source)):
            if number == limit:
                raise OSError("the disk is gone")
            yield row

    with pytest.raises(OSError, match="the disk is gone"):
        shards.write(tmp_path, "own", {"train": partial(broken, 100)}, shards.Options(log=print), 1)
    work = incomplete(tmp_path, "own")
    before = {path.name: path.stat().st_mtime_ns for path in work.glob("train.*")}
    assert len(before) == 12
    with pytest.raises(OSError, match="the disk is gone"):
        shards.write(tmp_path, "own", {"train": partial(broken, 140)}, shards.Options(log=print), 1)
    after = {path.name: path.stat().st_mtime_ns for path in work.glob("train.*")}
    assert before.items() < after.items()


def test_rows_that_changed_are_written_again_and_those_that_went_are_gone(source, tmp_path, small_shards):
    def changed(count, change):
        for number in range(count):
            yield draft(f"f:{number}", f"u{number}", answer=str(number + change * (number == 20)))

    for count, change in ((100, 0), (50, 1)):
        splits = {"train": partial(changed, count, change), "test": partial(_failing, count == 50)}
        if count == 100:
            with pytest.raises(OSError, match="not yet"):
                shards.write(tmp_path, "own", splits, shards.Options(log=print), 1)
    shards.write(tmp_path, "own", splits, shards.Options(log=print), 1)
    train = prepared.open_set(tmp_path, "own", "train")
    assert [train[n].answers[0] for n in range(len(train))] == [str(n + (n == 20)) for n in range(50)]


def _failing(well):
    if not well:
        raise OSError("not yet")
    yield draft("g:1", "v")


def test_another_configuration_starts_anew_and_says_so(source, tmp_path, small_shards):
    lines = []
    failing = {"train": partial(rows, source), "test": partial(_failing, False)}
    with pytest.raises(OSError, match="not yet"):
        shards.write(tmp_path, "own", failing, shards.Options(configuration={"source": "a"}, log=lines.append), 1)
    assert lines == []
    options = shards.Options(configuration={"source": "b"}, log=lines.append)
    report = shards.write(tmp_path, "own", {"train": partial(_failing, True)}, options, 1)
    assert "another source; starting anew" in lines[0]
    assert report.splits["train"].written == 1


def test_a_set_that_is_whole_is_left_and_told(source, tmp_path, undisturbed, small_shards):
    prepare(source, tmp_path, 1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    report = shards.write(tmp_path, "own", {"train": partial(_failing, False)}, shards.Options(), 1)
    assert report.kept
    assert report.splits["train"].rows == 330
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_all_pictures_missing_is_an_error_that_shows_where_they_were_looked_for(tmp_path):
    missing = [draft(f"f:{n}", f"u{n}", (Media(tmp_path / "pics" / f"{n}.jpg"),)) for n in range(9)]
    with pytest.raises(ValueError, match="none of the pictures of 9 rows is there") as caught:
        shards.write(tmp_path, "own", {"train": lambda: iter(missing)}, shards.Options(), 1)
    assert str(tmp_path / "pics" / "4.jpg") in str(caught.value)
    assert str(tmp_path / "pics" / "5.jpg") not in str(caught.value)
    assert not prepared.is_prepared(tmp_path, "own")
    (tmp_path / "pics").mkdir()
    for number in range(9):  # they came: the same command looks again
        (tmp_path / "pics" / f"{number}.jpg").write_bytes(encoded(noise(number), "JPEG"))
    report = shards.write(tmp_path, "own", {"train": lambda: iter(missing)}, shards.Options(log=lambda line: None), 1)
    assert report.splits["train"].written == 9


def test_too_many_skips_are_an_error_and_what_is_finished_is_kept(source, tmp_path, small_shards):
    with pytest.raises(ValueError, match=r"of 330 rows were skipped \(48 missing picture, .* --max_skipped 0.1"):
        shards.write(tmp_path, "own", {"train": partial(rows, source)}, shards.Options(max_skipped=0.1), 1)
    assert not prepared.is_prepared(tmp_path, "own")
    assert len(list(incomplete(tmp_path, "own").glob("train.*.array_record"))) > 15
    report = shards.write(tmp_path, "own", {"train": partial(rows, source)}, shards.Options(max_skipped=0.2), 1)
    assert report.splits["train"].skipped > 33


def test_sets_of_nothing_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no row in any split"):
        shards.write(tmp_path, "own", {"train": lambda: iter(())}, shards.Options(), 1)
    skips = [Skip("f:1", "empty answer"), Skip("f:2", "empty answer")]
    with pytest.raises(ValueError, match=r"all 2 rows were skipped \(2 empty answer\)"):
        shards.write(tmp_path, "own", {"train": lambda: iter(skips)}, shards.Options(log=lambda line: None), 1)
    with pytest.raises(ValueError, match="same name in files"):
        shards.write(tmp_path, "two", {"a-b": lambda: iter(()), "a/b": lambda: iter(())}, shards.Options(), 1)
    with pytest.raises(ValueError, match="cannot be a set's name"):
        shards.write(tmp_path, "../own", {"train": lambda: iter(skips)}, shards.Options(), 1)


def test_a_partial_download_and_text_that_is_no_unicode_are_told(tmp_path):
    drafts = [draft("f:1", "u1"), draft("f:2", "u2", answer="\ud800"), Skip("f:3", "half \ud800 a pair", "\ud800")]
    options = shards.Options(expected={"val": 5})
    report = shards.write(tmp_path, "own", {"val": lambda: iter(drafts)}, options, 1)
    assert report.splits["val"].reasons["text that is no Unicode"] == 1
    assert any("3 rows of the 5" in note and "partial download?" in note for note in report.notes())
    assert "partial download?" in "\n".join(report.lines())


def test_the_vocabulary_is_kept_beside_the_records(tmp_path):
    options = shards.Options(vocabulary=lambda: ["cat", "dog", "é"])
    shards.write(tmp_path, "own", {"train": partial(_failing, True)}, options, 1)
    assert json.loads((directory_of(tmp_path, "own") / "vocabulary.json").read_text()) == ["cat", "dog", "é"]


def _who(number):
    time.sleep(0.3)
    meta = {"process": os.getpid(), "jax": "jax" in sys.modules}
    return [Record(f"u{number}", "own", "train", "vqa", (), {}, ("a",), meta=meta)]


def test_all_processes_write_and_none_has_jax(tmp_path):
    parts = {"train": lambda: (partial(_who, number) for number in range(12))}
    with Pool(3) as pool:
        shards.write_chunks(tmp_path, "own", parts, pool.run, shards.Options())
    source = prepared.open_set(tmp_path, "own", "train")
    told = [source[n].meta for n in range(12)]
    assert len({one["process"] for one in told} - {os.getpid()}) == 3
    assert not any(one["jax"] for one in told)


def _dies(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return _who(number)


def test_a_process_that_is_killed_is_told_and_the_rest_can_go_on(tmp_path):
    def parts(make):
        return {"train": lambda: (partial(make, number) for number in range(6))}

    with pytest.raises(OSError, match="--workers"), Pool(2) as pool:
        shards.write_chunks(tmp_path, "own", parts(_dies), pool.run, shards.Options())
    options = shards.Options(log=lambda line: None)
    assert shards.write_chunks(tmp_path, "own", parts(_who), here, options).splits["train"].written == 6


def test_memory_does_not_grow_with_the_rows(tmp_path):
    """Of a process that reads the rows and writes them, too."""
    peaks = []
    for count in (400, 4_000):
        source = write_source(tmp_path / f"s{count}", count)
        process = start("prepare", source, tmp_path / f"o{count}", 1)
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
        told = json.loads(said.splitlines()[-1])
        assert not told["jax"]
        peaks.append(told["peak"])
    assert peaks[1] < peaks[0] + 8_000, peaks  # kB


@pytest.mark.parametrize(("held", "right"), [(None, True), (6, True), (7, False), (5, False)])
def test_a_split_whose_rows_do_not_add_up_is_refused(tmp_path, held, right):
    """The second draft stands for three rows of the source, the third for none."""

    def rows():
        for number, stands_for in enumerate((1, 3, 0)):
            yield replace(draft(f"f:{number}", f"own/train/{number}"), rows=stands_for)
        yield Skip("f:4", "empty answer", rows=2)
        return held

    options = shards.Options(log=lambda line: None)
    if not right:
        with pytest.raises(ValueError, match=f"own, split train: its source has {held} rows, and 6 were read"):
            shards.write(tmp_path, "own", {"train": rows}, options, 1)
        assert not is_prepared(tmp_path, "own")
        return
    report = shards.write(tmp_path, "own", {"train": rows}, options, 1)
    told = report.splits["train"]
    assert (told.written, told.skipped, told.rows, told.held) == (3, 1, 4, 6)
    assert "train: 4 records and skips stand for 6 rows of the source" in list(report.notes())
