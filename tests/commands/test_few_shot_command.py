"""`evaluate` with worked examples, over sets of every mode, by a system whose rows hold several pictures."""

import importlib
import io
import json
import runpy
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
from PIL import Image

import instructblip_jax as ib
from instructblip_jax import model as models
from instructblip_jax.data.record import IMAGE, Medium, Record
from instructblip_jax.datasets.prepare.write import write
from instructblip_jax.run.config import resolve
from instructblip_jax.run.workdir import Workdir

CONFIG = """
from ml_collections import ConfigDict
from instructblip_jax.run.config import complete

def get_config():
    config = complete(ConfigDict({{"model": "{model}", "steps": 1, "batch_size": 4, "mixture": {{"sets": ("own",)}}}}))
    config.dtype, config.data.directory = "float32", "{sets}"
    config.evaluation.held_out = ("vqav2", "hateful_memes", "bound")
    config.evaluation.batch_size, config.evaluation.shots = 4, (0, 2, 4)
    config.evaluation.few_shot.seeds, config.evaluation.few_shot.pool = 2, 8
    config.evaluation.settings = {{
        "vqav2": {{"max_new_tokens": 2, "num_beams": 1}}, "bound": {{"mode": "rank", "metric": "accuracy"}}
    }}
    return config
"""
WORDS = ("red", "blue", "green")


def picture(seed: int) -> Medium:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (24, 24, 3), np.uint8)).save(buffer, "PNG")
    return Medium(IMAGE, buffer.getvalue())


def question(split: str, n: int) -> Record:
    slots = {"question": f"which colour is digit {n} ?"}
    shown = (picture(n // 2 + 100 * (split == "train")),)  # two questions about each picture
    return Record(f"vqav2/{split}/{n}", "vqav2", split, "vqa", shown, slots, (WORDS[n % 3],))


def meme(split: str, n: int) -> Record:
    slots, shown = {"text": f"digit {n}"}, (picture(n + 200 + 100 * (split == "train")),)
    more = {"candidates": ("no", "yes"), "label": n % 2, "answers": (("no", "yes")[n % 2],)}
    return Record(f"hateful_memes/{split}/{n}", "hateful_memes", split, "binary", shown, slots, **more)


def bound(split: str, n: int) -> Record:
    """A record that brings its examples: two colours, twice each."""
    names = WORDS[:2] if n % 2 else WORDS[1::-1]
    parts = tuple(part for at in range(4) for part in (at, f"this is {names[at % 2]} . "))
    text = "".join("<image>" if isinstance(part, int) else part for part in (*parts, 4, "this is"))
    more = {"candidates": WORDS[:2], "label": n % 2, "instruction": text, "parts": (*parts, 4, "this is")}
    shown = tuple(picture(400 + 10 * n + at) for at in range(5))
    return Record(f"bound/test/{n}", "bound", "test", "vqa", shown, {}, (WORDS[n % 2],), **more)


def records(make, split: str, count: int) -> Iterator[Record]:
    return (make(split, n) for n in range(count))


@pytest.fixture(scope="module")
def run(mini, tmp_path_factory):
    """Flags of a run that was trained, and its model on one device."""
    root = tmp_path_factory.mktemp("few_shot")
    sizes = {"vqav2": (question, {"train": 10, "val": 6})}
    sizes["hateful_memes"] = (meme, {"train": 10, "dev_seen": 6, "dev_unseen": 2})
    sizes["bound"] = (bound, {"test": 3})
    for name, (make, splits) in sizes.items():
        write(root / "sets", name, {split: partial(records, make, split, count) for split, count in splits.items()})
    (root / "few.py").write_text(CONFIG.format(model=mini("llava"), sets=root / "sets"))
    config = resolve(runpy.run_path(str(root / "few.py"))["get_config"]())
    Workdir(str(root / "run")).claim(config)
    flags = (f"--config={root / 'few.py'}", f"--workdir={root / 'run'}", f"--json={root / 'told.json'}")
    return flags, root, models.Model.from_pretrained(config.model, dtype="float32")


@pytest.fixture
def evaluate(run, cli, monkeypatch):
    """Runs the command; what --json holds, what it printed, and how many pictures were encoded."""
    module = importlib.import_module("instructblip_jax.commands.evaluate")
    flags, root, model = run
    monkeypatch.setattr(module, "load", lambda *_: (model, 5))

    def told(*more: str):
        encoded = []

        def encode(batch, **options):
            encoded.append(options.get("rows", 1))
            return models.Model.encode(model, batch, **options)

        monkeypatch.setattr(model, "encode", encode)
        result = cli("evaluate", *flags, *(f"--config.evaluation.{field}" for field in more))
        assert result.code == 0, result.err
        return json.loads((root / "told.json").read_text())["sets"], result.out, sum(encoded)

    return told


def kept(run, name: str) -> list[dict]:
    return [json.loads(line) for line in (run[1] / "run" / "predictions" / f"{name}.jsonl").read_text().splitlines()]


def only(name: str) -> tuple[str, str]:
    """Fields that leave one set."""
    settings = {"bound": {"mode": "rank", "metric": "accuracy"}} if name == "bound" else {}
    return f"held_out=('{name}',)", f"settings={settings}"


def test_one_command_gives_each_set_its_scores_over_numbers_of_examples(evaluate, run):
    controls = "few_shot.controls=('wrong','blank')"
    first, said, encoded = evaluate(controls)
    for name, count in (("vqav2", 6), ("hateful_memes", 8), ("bound", 3)):
        shots = first[name]["shots"]
        assert list(shots) == ["0", "2", "4"]
        assert [one["seeds"] for one in shots.values()] == [1, 2, 2]
        assert {one["count"] for one in shots.values()} == {count}
        for one in shots.values():
            assert one["low"] <= one["value"] <= one["high"]
            assert one["value"] == pytest.approx(np.mean(one["values"]))
        assert first[name]["value"] == shots["4"]["value"]
        assert set(shots["4"]["controls"]) == {"wrong", "blank"}
        assert set(shots["0"]["controls"]) == {"blank"}  # there is no example to be wrong
        assert len(kept(run, f"{name}@4")) == 2 * count
        assert said.count(f"| {name} |") == 3
    assert (run[1] / "run" / "shots.png").stat().st_size > 5_000
    # Each picture once, whatever the numbers of examples and of supports: 10 and 10 of examples, 3, 8 and 15 of
    # questions, batches filled up, and a blank one for each set.
    assert encoded <= 12 + 12 + 4 + 8 + 16 + 3
    again, _, none = evaluate(controls)
    assert (again, none) == (first, 0)


def test_pictures_of_a_bank_stand_in_prompts_as_those_of_a_row_do(evaluate, run):
    """The scores of a prompt are those of the public `rank`, which encodes all pictures of a row together."""
    evaluate(*only("bound"), "shots=(4,)", "few_shot.controls=('wrong','blank')")
    model = run[2]
    processor = ib.Processor.from_pretrained(model.directory)
    for n, row in enumerate(kept(run, "bound@4")[:4:2]):
        record, names = bound("test", n), WORDS[:2] if n % 2 else WORDS[1::-1]
        assert (row["uid"], row["seed"]) == (record.uid, 0)
        pictures = [medium.data for medium in record.media]
        for field, shift in (("scores", 0), ("wrong_scores", 1)):
            shown = "".join(f"<image>this is {names[(at + shift) % 2]} . </s>" for at in range(4))
            want = ib.rank(model, processor, [pictures], [f"{shown}<image>this is"], WORDS[:2])
            np.testing.assert_allclose(row[field], want[0], rtol=1e-4)
        grey = [np.full((24, 24, 3), np.round(255 * np.array(processor.image.mean)), np.uint8)] * 5
        want = ib.rank(model, processor, [grey], [f"{''.join(_text(names))}<image>this is"], WORDS[:2])
        np.testing.assert_allclose(row["blind_scores"], want[0], rtol=2e-2)  # the mean colour is rounded here


def _text(names) -> list[str]:
    return [f"<image>this is {names[at % 2]} . </s>" for at in range(4)]


def test_examples_alike_and_several_orders(evaluate, run):
    """RICES takes the same examples for every question about a picture, another order of them another score."""
    given = (*only("hateful_memes"), "shots=(2,)", "few_shot.pool=0", "few_shot.seeds=1")
    evaluate(*given, "few_shot.selection=rices")
    plain = kept(run, "hateful_memes@2")
    assert all(len(set(row["examples"])) == 2 for row in plain)
    evaluate(*given, "few_shot.selection=rices", "few_shot.orders=6")
    mean = kept(run, "hateful_memes@2")
    assert [row["examples"] for row in mean] == [row["examples"] for row in plain]
    assert [row["scores"] for row in mean] != [row["scores"] for row in plain]


def test_an_interrupted_evaluation_goes_on(evaluate, run, cli, monkeypatch):
    """Kept batches are not answered again, whatever the number of examples at which it stopped."""
    module = importlib.import_module("instructblip_jax.commands.evaluate")
    monkeypatch.setattr(module, "PART", 1)
    fields = (*only("hateful_memes"), "shots=(0,2)", "few_shot.seeds=2")
    whole, _, _ = evaluate(*fields, "few_shot.repeats=0")
    lines = {shots: kept(run, f"hateful_memes@{shots}") for shots in (0, 2)}
    model, calls = run[2], []

    def arrange(banks, place):
        calls.append(len(place))
        if len(calls) == 5:  # the first batch takes three: one without examples, and two supports
            raise OSError("stopped here")
        return models.Model.arrange(model, banks, place)

    with monkeypatch.context() as patch:
        patch.setattr(model, "arrange", arrange)
        result = cli("evaluate", *run[0], *(f"--config.evaluation.{field}" for field in fields), "--again")
        assert "stopped here" in result.err
        calls[:] = [0] * 5
        again, _, _ = evaluate(*fields)
    assert len(calls) == 5 + 3
    assert again == whole
    assert {shots: kept(run, f"hateful_memes@{shots}") for shots in (0, 2)} == lines


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("shots=(4,20)", "vqav2: 20 examples are requested, but only 8 records are available; lower"),
        ("settings={'vqav2': {'support': 'val'}}", "settings.vqav2.support is 'val', the split that is evaluated"),
        ("settings={'vqav2': {'support': 'dev'}}", "has no split 'dev'; it has train, val; examples are taken from"),
        ("few_shot.form=mine", "few_shot.form is 'mine'; there are flamingo, open_flamingo, idefics, kosmos, frozen"),
        ("few_shot.controls=('blind',)", "few_shot.controls is 'blind', not wrong or blank"),
        ("few_shot.seeds=0", "few_shot.seeds is 0; it is 1 or more"),
    ],
)
def test_what_cannot_be_is_named(run, cli, monkeypatch, field, words):
    module = importlib.import_module("instructblip_jax.commands.evaluate")
    monkeypatch.setattr(module, "load", lambda *_: (run[2], 5))
    result = cli("evaluate", *run[0], *(f"--config.evaluation.{one}" for one in (*only("vqav2"), field)))
    assert result.code in (1, 2)
    assert words in result.err


def test_a_system_of_one_picture_a_row_shows_no_examples(cli, world, tmp_path):
    flags = (f"--config={world / 'tiny.py'}", f"--workdir={tmp_path}", "--config.evaluation.shots=(0,4)")
    Workdir(str(tmp_path)).claim(resolve(runpy.run_path(str(world / "tiny.py"))["get_config"]()))
    result = cli("evaluate", *flags)
    assert "config.evaluation.shots: this system takes one picture per row" in result.err


@pytest.mark.long
@pytest.mark.parametrize("kind", ["flamingo", "idefics", "kosmos-1", "frozen"])
def test_every_system_that_reads_several_pictures(evaluate, run, mini, cli, monkeypatch, kind):
    """Examples of the training split, and those that a record brings; scores as the public `rank` has them."""
    model = models.Model.from_pretrained(mini(kind), dtype="float32")
    processor = ib.Processor.from_pretrained(model.directory)
    source = (run[1] / "few.py").read_text().replace(str(run[2].directory), str(model.directory))
    (run[1] / f"{kind}.py").write_text(source)
    workdir = run[1] / f"run-{kind}"
    Workdir(str(workdir)).claim(resolve(runpy.run_path(str(run[1] / f"{kind}.py"))["get_config"]()))
    module = importlib.import_module("instructblip_jax.commands.evaluate")
    monkeypatch.setattr(module, "load", lambda *_: (model, 5))
    fields = ("held_out=('vqav2','bound')", "shots=(0,2)", "few_shot.controls=('wrong','blank')")
    given = (f"--config={run[1] / kind}.py", f"--workdir={workdir}")
    result = cli("evaluate", *given, *(f"--config.evaluation.{field}" for field in fields))
    assert result.code == 0, result.err
    kept = [json.loads(line) for line in (workdir / "predictions" / "bound@2.jsonl").read_text().splitlines()]
    record, end = bound("test", 0), "\n" if kind == "idefics" else ""
    pictures = [record.media[n].data for n in (0, 1, 4)]
    text = "".join(f"<image>this is {WORDS[1 - n]} . {end}" for n in range(2)) + "<image>this is"
    want = ib.rank(model, processor, [pictures], [text], WORDS[:2])
    np.testing.assert_allclose(kept[0]["scores"], want[0], rtol=1e-4)
