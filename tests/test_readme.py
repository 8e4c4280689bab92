"""The README's Python snippet and its steps for own pictures run as they stand, on the shipped model."""

import json
import os
import re
import subprocess
import sys

import pytest
import toys
from PIL import Image
from worlds import FLAGS

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
    again = ib.InstructBlip.from_pretrained(tmp_path / "tuned", names["mesh"])
    assert float(ib.loss(again, names["batch"])[0]) == pytest.approx(float(names["loss"]), rel=1e-6)


def test_ten_own_pictures_become_a_tuned_model_that_answers(tmp_path):
    """The commands are README's; of the model, the line that names it; of the configuration, a few steps alone."""
    section = README.partition("## Your own pictures")[2]
    example = json.loads(re.search(r"^    (\{.*\})$", section, re.MULTILINE)[1])
    script = re.search(r"^```bash\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)[1]
    folder = tmp_path / "my_pictures"
    folder.mkdir()
    rows = []
    for number in range(10):
        name = example["image"] if number == 0 else f"{number}.jpg"
        colour = (30 * number % 256, 80, 200 - 10 * number)
        Image.new("RGB", (60 + number, 48), colour).save(folder / name)
        rows.append(example | {"image": name, "answer": "two" if number % 2 else "three"})
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert script.count(PUBLIC) == 1
    script = script.replace(PUBLIC, "digits").replace("--config own_data", "--config own_data --config.steps=3")
    program = tmp_path / "bin" / "instructblip"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m instructblip_jax "$@"\n')
    program.chmod(0o755)
    environment = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(toys.ROOT), "XLA_FLAGS": FLAGS}
    environment["PATH"] = f"{program.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "runs" / "own" / "evaluation.json").read_text())
    assert report["step"] == 3
    assert report["sets"]["own"]["count"] > 0
    assert ib.from_pretrained(tmp_path / "tuned").config
    assert "`qformer`" in (tmp_path / "tuned" / "README.md").read_text(encoding="utf-8")
