"""`score` on files from the field: a score that says nothing says why, and what cannot be written is told first."""

import json

import pytest

CAPTION = "a dog runs on the grass"


@pytest.fixture
def files(tmp_path):
    def write(references, predictions) -> tuple[str, str]:
        paths = []
        for name, rows in (("predictions", predictions), ("references", references)):
            path = tmp_path / f"{name}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            paths.append(f"--{name}={path}")
        return tuple(paths)

    return write


def test_a_perfect_caption_of_one_picture_is_nothing_and_says_why(cli, files, tmp_path):
    given = files([{"image_id": 11, "captions": [CAPTION, "a dog outside"]}], [{"image_id": 11, "caption": CAPTION}])
    result = cli("score", "cider", *given, f"--json={tmp_path / 'out.json'}")
    assert result.code == 0, result.err
    told = json.loads((tmp_path / "out.json").read_text())
    assert (told["value"], told["count"]) == (0.0, 1)
    for text in (result.out, told["reason"]):
        assert "CIDEr of one picture is 0 for any prediction: document frequencies need several pictures" in text


def test_a_domain_of_one_picture_says_it_too(cli, files):
    said = {1: (CAPTION, "near"), 2: ("two red kites", "near"), 3: ("an old boat", "far")}
    references = [{"image_id": n, "captions": [text], "domain": domain} for n, (text, domain) in said.items()]
    result = cli("score", "cider", *files(references, [{"image_id": n, "caption": said[n][0]} for n in said]))
    assert result.code == 0, result.err
    assert "domain far: CIDEr of one picture is 0" in result.out
    assert "domain near:" not in result.out


def test_a_report_that_cannot_be_written_is_told_before_the_scoring(cli, files, tmp_path, monkeypatch):
    monkeypatch.setattr("instructblip_jax.commands.score.read_pairs", lambda *_: pytest.fail("the files were read"))
    given = files([{"id": 1, "answers": ["a"]}], [{"id": 1, "answer": "a"}])
    for path, words in ((tmp_path / "none" / "out.json", "no such directory"), (tmp_path, "is a directory")):
        result = cli("score", "exact_match", *given, f"--json={path}")
        assert (result.code, words in result.err) == (2, True), result.err
        assert str(path) in result.err
