"""Predictions beside their pictures: what is kept, and pages that hold whatever a model may write."""

import base64
import io
import json
import re

import pytest
from PIL import Image

import instructblip_jax as ib
from instructblip_jax.data.record import Medium, Record, key_of
from instructblip_jax.evals import gallery, judge
from instructblip_jax.evals.pairs import Prediction
from instructblip_jax.run.workdir import Workdir

HOSTILE = '<script>alert("1")</script> | & \n`x`'


def png(colour: int, size: tuple[int, int] = (400, 20)) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, (colour, 0, 0)).save(content, format="PNG")
    return content.getvalue()


def record(n: int, *media: tuple[str, bytes]) -> Record:
    shown = tuple(Medium(*one) for one in media)
    return Record(f"set/test/{n}", "set", "test", "vqa", shown, {}, ("three", HOSTILE), instruction=f"question {n} ?")


@pytest.fixture
def evaluated(tmp_path):
    """A workdir with the predictions of 60 questions about two pictures, the 31st of which is hostile, and its rows."""
    workdir = Workdir(str(tmp_path))
    pictures = [("image", png(200)), ("image", png(90))]
    asked = [record(n, pictures[n % 2]) for n in range(60)]
    lines = [
        judge.line(one, one.instruction, Prediction(HOSTILE if n == 30 else f"answer {n}"), None)
        for n, one in enumerate(asked)
    ]
    workdir.write_text("predictions/set.jsonl", "\n".join(lines) + "\n")
    return workdir, asked, gallery.keep(workdir, asked, list(map(json.loads, lines)))


def test_a_sample_of_the_whole_set_is_kept_each_picture_once_and_small(evaluated):
    workdir, asked, rows = evaluated
    numbers = [int(row["uid"].rsplit("/", 1)[1]) for row in rows]
    assert len(rows) == gallery.ROWS
    assert numbers[0] == 0
    assert max(numbers) > 55
    assert 30 in numbers
    kept = list((workdir.path / gallery.MEDIA).iterdir())
    assert {path.stem for path in kept} == {key_of(asked[n].media[0].data).hex() for n in (0, 1)}
    with Image.open(kept[0]) as picture:
        assert picture.size == (gallery.SIDE, 8)


def test_the_page_holds_its_pictures_and_escapes_every_text(evaluated):
    workdir, _, rows = evaluated
    page = gallery.Gallery(workdir, {"<b>set</b>": rows}).html
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;alert(&quot;1&quot;)" in page
    codes = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(codes) == len(rows)
    with Image.open(io.BytesIO(base64.b64decode(codes[0]))) as picture:
        assert picture.getpixel((0, 0))[0] > 150
    assert not re.search(r'(src|href)="(?!data:)', page)  # no other file is needed


def test_markdown_has_one_line_a_row(evaluated):
    workdir, _, rows = evaluated
    text = str(gallery.Gallery(workdir, {"set": rows}))
    lines = text.splitlines()
    assert len(lines) == 2 + 2 + len(rows)  # title, blank, head, rule
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 5 for line in lines[2:])
    assert "<script" not in text
    assert (workdir.path / re.search(r"!\[\]\((.+?)\)", text)[1]).is_file()


def test_show_reads_a_workdir_and_puts_rows_with_pictures_first(evaluated):
    workdir, _, _ = evaluated
    workdir.write_text("predictions/pairs.jsonl", json.dumps({"uid": "a", "images": [], "texts": []}) + "\n")
    found = ib.show(workdir.path, rows=5)
    assert list(found.sets) == ["set"]  # retrieval has no answers to show
    assert [row["uid"].rsplit("/", 1)[1] for row in found.sets["set"]] == ["0", "1", "2", "3", "4"]
    assert found._repr_html_().count("<tr>") == 6
    with pytest.raises(ValueError, match="there are pairs, set"):
        ib.show(workdir.path, "other")


def test_a_row_without_a_kept_picture_is_shown_all_the_same(tmp_path):
    workdir = Workdir(str(tmp_path))
    one = record(0, ("audio", b"RIFF"))
    line = judge.line(one, one.instruction, Prediction("a bell"), None)
    rows = gallery.keep(workdir, [one], [json.loads(line)])
    assert "a bell" in gallery.Gallery(workdir, {"set": rows}).html
    assert not list((workdir.path / gallery.MEDIA).iterdir())
    with pytest.raises(FileNotFoundError, match="instructblip evaluate"):
        ib.show(tmp_path / "elsewhere")
