"""The README's Python snippet runs as it stands, on the shipped model and a picture of its world."""

import re

import pytest
import toys
from PIL import Image

import instructblip_jax as ib
from instructblip_jax.datasets.digits import __main__ as digits

README = (toys.ROOT / "README.md").read_text(encoding="utf-8")
PUBLIC = "Salesforce/instructblip-flan-t5-xl"


def test_the_snippet_runs(tmp_path, monkeypatch, capsys):
    (snippet,) = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert snippet.count(PUBLIC) == 1
    monkeypatch.chdir(tmp_path)
    digits.main(["scene.png"])
    with Image.open("scene.png") as scene:
        scene.convert("RGB").save("bench.jpg")
    capsys.readouterr()
    names: dict = {}
    exec(compile(snippet.replace(PUBLIC, str(toys.SHIPPED)), "README.md", "exec"), names)
    streamed = capsys.readouterr().out
    question = "Describe the picture in detail."
    assert streamed == ib.generate(names["model"], names["processor"], "bench.jpg", question)[0]
    assert names["logits"].shape[:2] == names["batch"]["labels"].shape
    assert names["loss"] > 0
    assert {name.partition(".")[0] for name in names["grads"]} == {"qformer", "query_tokens", "language_projection"}
    again = ib.InstructBlip.from_pretrained(tmp_path / "tuned")
    assert float(ib.loss(again, names["batch"])[0]) == pytest.approx(float(names["loss"]), rel=1e-3)  # one device
