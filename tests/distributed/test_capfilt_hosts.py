"""`capfilt` on one and on two hosts, and killed: the same files."""

from pathlib import Path

import pytest


def command(blips: tuple[Path, Path], web: Path, out: Path) -> list[object]:
    sources = [f"--source={web / name}" for name in ("web.tar", "pairs", "web.tar")]
    models = [f"--captioner={blips[0]}", f"--filter={blips[1]}", "--dtype=float32"]
    return ["capfilt", *models, *sources, f"--out={out}", "--batch_size=1", "--max_new_tokens=6", "--captions=2"]


def tree(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def alone(process, blips, web, tmp_path_factory):
    """The files that one process wrote: seventeen rows in three parts."""
    out = tmp_path_factory.mktemp("alone")
    result = process(*command(blips, web, out), devices=2)
    assert result.code == 0, result.err
    files = tree(out)
    assert [f"capfilt_web/texts/{n:06d}.jsonl" in files for n in range(4)] == [True, True, True, False]
    assert any(".array_record-" in name for name in files)
    return files


def same_as(alone: dict[str, bytes], out: Path, results) -> None:
    """All ended well, only the first one talked, and the files are those of one process."""
    assert [result.code for result in results] == [0] * len(results), results
    assert "of 16 pictures keep a text" in results[0].out
    assert not any(result.out for result in results[1:])
    assert tree(out) == alone


@pytest.mark.long
def test_two_hosts_that_are_killed_go_on_and_write_what_one_writes(start, blips, web, alone, tmp_path):
    out = tmp_path / "out"
    start(2, *command(blips, web, out)).kill(0, lambda: any(out.glob("*/texts/*.jsonl")))
    before = {path: path.stat().st_mtime for path in out.glob("*/texts/*.jsonl")}
    assert before
    assert not list(out.glob("*/3.0.0"))
    same_as(alone, out, start(2, *command(blips, web, out)).wait())
    assert {path: path.stat().st_mtime for path in before} == before  # not done again


@pytest.mark.long
def test_two_hosts_that_nothing_disturbs_write_it_too(start, blips, web, alone, tmp_path):
    out = tmp_path / "out"
    same_as(alone, out, start(2, *command(blips, web, out)).wait())


@pytest.mark.long
def test_one_host_that_is_killed_before_its_first_part_goes_on(start, blips, web, alone, tmp_path):
    out = tmp_path / "out"
    start(1, *command(blips, web, out)).kill(0, (out / "capfilt_web/texts/running").exists)
    same_as(alone, out, start(1, *command(blips, web, out)).wait())
