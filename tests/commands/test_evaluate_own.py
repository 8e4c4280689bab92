"""`evaluate` over one's own sets, as `prepare` writes them: every form is judged, by what its records are.

The model is a stand-in that answers with what it is given; what is asked, kept, scored and told is the command's own.
"""

import dataclasses
import importlib
import json
import runpy
from types import SimpleNamespace

import jax
import pytest
import toys
from PIL import Image

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.prepare import write
from instructblip_jax.evals.pairs import Prediction
from instructblip_jax.mesh import make_mesh
from instructblip_jax.run.config import resolve
from instructblip_jax.run.workdir import Workdir

CONFIG = """
from instructblip_jax.recipes.instructblip import own_data

def get_config():
    config = own_data("{model}", sets=("own",))
    config.data.directory = "{out}"
    config.evaluation.batch_size = 2
    config.evaluation.blind = False
    config.data.instruction_lengths = (64,)
    return config
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model's directory without weights."""
    directory = tmp_path_factory.mktemp("model")
    toys.write_processor(directory)
    return directory


@pytest.fixture
def evaluate(cli, model, tmp_path, monkeypatch):
    """Prepares a source and judges it: the command's result, what --json holds of the set, and its kept lines.

    ``say``: record -> what the model says; ``asked`` has the records of each batch, and the shape of its pictures.
    """
    module = importlib.import_module("instructblip_jax.commands.evaluate")
    (tmp_path / "own.py").write_text(CONFIG.format(model=model, out=tmp_path / "sets"))
    workdir = Workdir(str(tmp_path / "run"))
    workdir.claim(resolve(runpy.run_path(str(tmp_path / "own.py"))["get_config"]()))
    stand_in = SimpleNamespace(mesh=make_mesh(1, 1, 1, jax.devices()[:1]), directory=model, train={})
    monkeypatch.setattr(module, "load", lambda config, workdir, step: (stand_in, 7))

    def answered(model, processor, batches, how, vocabulary, *, blind, blank_image):
        for batch in batches:
            run.asked.append((batch.records, batch.media["pixel_values"].shape))
            yield [(record, Prediction(run.say(record)), None) for record in batch.records]

    monkeypatch.setattr(module, "answered", answered)

    def run(*more):
        run.asked.clear()
        report = tmp_path / "evaluation.json"
        report.unlink(missing_ok=True)
        given = (f"--config={tmp_path / 'own.py'}", f"--workdir={tmp_path / 'run'}", f"--json={report}")
        result = cli("evaluate", *given, *more)
        if result.code:
            return result, {}, []
        lines = (tmp_path / "run" / "predictions" / "own.jsonl").read_text().splitlines()
        return result, json.loads(report.read_text())["sets"]["own"], list(map(json.loads, lines))

    run.asked = []
    run.say, run.cli, run.model = right, cli, stand_in
    run.prepare = lambda source, *flags: prepared(cli, tmp_path, source, *flags)
    return run


def prepared(cli, tmp_path, source, *flags):
    result = cli("prepare", "custom", f"--source={source}", "--name=own", f"--out={tmp_path / 'sets'}", *flags)
    assert result.code == 0, result.err
    return result


def right(record: Record) -> str:
    return (record.references or record.answers)[0]


@pytest.fixture
def folder(tmp_path):
    """With pictures pics/0.png to 11.png, each of its own colour."""
    (tmp_path / "in" / "pics").mkdir(parents=True)
    for n in range(12):
        Image.new("RGB", (6, 5), (20 * n, 40, 250 - 20 * n)).save(tmp_path / "in" / "pics" / f"{n}.png")
    return tmp_path / "in"


def lines(path, rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def talk(*texts) -> list[dict]:
    return [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]


def dialogues(folder, count: int = 5):
    path = folder / "llava.json"
    said = [
        talk("<image>\nwhich digit ?", str(n), "and where ?", f"top-left {n}", "sure ?", "yes") for n in range(count)
    ]
    rows = [{"id": n, "image": f"pics/{n}.png", "conversations": own[: 2 + 2 * (n % 3)]} for n, own in enumerate(said)]
    path.write_text(json.dumps(rows))
    return path


def test_a_dialogue_is_judged_turn_by_turn(evaluate, folder):
    evaluate.prepare(dialogues(folder).rename(folder / "test.json"))
    evaluate.say = lambda record: "top-left 1" if record.uid == "own/test/1#turn2" else record.answers[0] + "!"
    result, told, kept = evaluate()
    assert result.code == 0, result.err
    turns = [f"own/test/{n}#turn{turn}" for n in range(5) for turn in range(1, 2 + n % 3)]
    assert [row["uid"] for row in kept] == turns
    assert (told["count"], told["value"], told["metric"]) == (9, pytest.approx(1 / 9), "exact_match")
    third = next(row for row in kept if row["uid"] == "own/test/2#turn3")
    assert third["answers"] == ["yes"]
    before = "Question: which digit ? Answer: 2\nQuestion: and where ? Answer: top-left 2\n"
    assert third["instruction"] == before + "sure ?"
    assert "note: own: 5 dialogues are asked turn by turn" in result.out
    assert [shape[0] for _, shape in evaluate.asked] == [2, 2, 1, 2, 1]  # two turns of one batch share their picture


def test_judging_dialogues_goes_on_in_the_middle(evaluate, folder, monkeypatch):
    monkeypatch.setattr(importlib.import_module("instructblip_jax.commands.evaluate"), "PART", 1)
    evaluate.prepare(dialogues(folder).rename(folder / "test.json"))
    _, whole, kept = evaluate()

    def stopped(record):
        if record.uid == kept[4]["uid"]:
            raise OSError("stopped here")
        return right(record)

    evaluate.say = stopped
    result, _, _ = evaluate("--again")
    assert result.code == 1
    evaluate.say = right
    _, again, rest = evaluate()
    assert [record.uid for records, _ in evaluate.asked for record in records] == [row["uid"] for row in kept[4:]]
    assert (again, rest) == (whole, kept)


def test_the_split_that_is_there_is_judged_and_named(evaluate, folder):
    rows = [{"image": f"pics/{n}.png", "question": "which ?", "answer": str(n)} for n in range(12)]
    lines(folder / "a.jsonl", rows)
    evaluate.prepare(folder / "a.jsonl", "--validation=0.4")
    result, told, kept = evaluate()
    assert result.code == 0, result.err
    assert told["data_split"] == told["details"]["judging"]["split"] == "validation"
    assert "| own | validation | exact_match |" in result.out
    assert "note: own: split validation: it has no split test" in result.out
    assert {row["uid"].split("/")[1] for row in kept} == {"validation"}
    result, _, _ = evaluate("--split=test")
    assert (result.code, "has no split 'test'; it has train, validation" in result.err) == (1, True)


def test_training_data_is_not_judged_unless_one_says_so(evaluate, folder):
    lines(folder / "a.jsonl", [{"image": f"pics/{n}.png", "question": "which ?", "answer": str(n)} for n in range(3)])
    evaluate.prepare(folder / "a.jsonl")
    result, _, _ = evaluate()
    assert result.code == 1
    (message,) = result.err.strip().splitlines()
    assert "has no split for evaluation, only train" in message
    assert "--validation" in message
    result, told, _ = evaluate("--config.evaluation.settings={'own': {'split': 'train'}}")
    assert (result.code, told["data_split"]) == (0, "train"), result.err


CAPTIONS = {
    0: ("a red kite flies high", "the kite is red"),
    1: ("two dogs on the beach", "dogs run on sand", "two dogs"),
}


def captions(path) -> None:
    rows = [{"image": f"pics/{n}.png", "caption": text} for n, texts in CAPTIONS.items() for text in texts]
    lines(path, [rows[n] for n in (0, 2, 3, 1, 4)])


def test_captions_are_judged_by_cider_over_all_of_a_picture(evaluate, folder):
    captions(folder / "test.jsonl")
    evaluate.prepare(folder / "test.jsonl")
    evaluate.say = lambda record: record.references[-1]  # equal to a caption of the picture, but not to the first one
    result, told, kept = evaluate()
    assert result.code == 0, result.err
    assert [row["answers"] for row in kept] == [list(CAPTIONS[0]), list(CAPTIONS[1])]
    assert (told["metric"], told["count"]) == ("cider", 2)
    assert told["value"] > 1
    assert "note: own: metric cider: its 5 records are captions, of 2 pictures" in result.out
    result, told, _ = evaluate("--config.evaluation.settings={'own': {'metric': 'rouge_l'}}")
    assert (told["metric"], told["value"], told["count"]) == ("rouge_l", 1.0, 2)


def test_captions_with_different_instructions_are_different_questions(evaluate, folder):
    rows = [
        {"image": "pics/0.png", "task": "caption", "question": q, "answer": "a kite"} for q in ("long ?", "short ?")
    ]
    lines(folder / "test.jsonl", [*rows, *rows])
    evaluate.prepare(folder / "test.jsonl")
    _, told, kept = evaluate()
    assert [row["instruction"] for row in kept] == ["long ?", "short ?"]
    assert told["count"] == 2


def test_one_picture_says_why_its_cider_is_nothing(evaluate, folder):
    lines(folder / "test.jsonl", [{"image": "pics/0.png", "caption": "a dog runs"}])
    evaluate.prepare(folder / "test.jsonl")
    result, told, _ = evaluate()
    assert told["value"] == 0
    assert "document frequencies" in told["details"]["reason"]
    assert "note: own: CIDEr of one picture is 0" in result.out


def test_rows_without_an_answer_are_answered_and_left_out_of_the_score(evaluate, folder):
    rows = [{"image": f"pics/{n}.png", "question": "which ?", "answer": "" if n == 1 else str(n)} for n in range(4)]
    lines(folder / "test.jsonl", rows)
    evaluate.prepare(folder / "test.jsonl")
    evaluate.say = lambda record: record.answers[0] if record.answers else "?"
    result, told, kept = evaluate()
    assert result.code == 0, result.err
    assert (len(kept), told["count"], told["value"]) == (4, 3, 1.0)
    assert "note: own: 1 of 4 have no answer to be judged by" in result.out


def test_a_row_shows_its_own_pictures_and_none_twice(evaluate, folder):
    shown = [["0"], ["1", "2"], ["3"], [], ["4"]]
    rows = [
        {"id": n, "conversations": talk("what ?", str(n)), "image": [f"pics/{k}.png" for k in own]}
        for n, own in enumerate(shown)
    ]
    (folder / "test.json").write_text(json.dumps(rows))
    result = evaluate.prepare(folder / "test.json")
    assert "test: 1 row shows no picture, 3 rows show 1 picture, 1 row shows 2 pictures" in result.out
    _, told, kept = evaluate()
    assert (told["count"], told["value"]) == (5, 1.0)
    assert [row["uid"].split("/")[-1] for row in kept] == [f"{n}#turn1" for n in (0, 2, 3, 4, 1)]
    size = toys.SIZE
    assert [shape for _, shape in evaluate.asked] == [(2, size, size, 3), (2, size, size, 3), (1, 2, size, size, 3)]


def in_csv(folder):
    (folder / "test.csv").write_text(
        "image,question,answer\n" + "".join(f"pics/{n}.png,which ?,{n}\n" for n in range(5))
    )
    return folder / "test.csv"


def in_llava_jsonl(folder):
    lines(folder / "test.jsonl", json.loads(dialogues(folder).read_text()))
    return folder / "test.jsonl"


def in_coco(folder):
    images = [{"id": n, "file_name": f"pics/{n}.png"} for n in range(3)]
    said = [{"id": 9 + n, "image_id": n % 3, "caption": f"a digit {n}"} for n in range(6)]
    (folder / "captions_test.json").write_text(json.dumps({"images": images, "annotations": said}))
    return folder / "captions_test.json"


def in_vqa(folder):
    asked = [{"question_id": n, "image_id": n, "question": "which ?", "image": f"pics/{n}.png"} for n in range(4)]
    said = [{"question_id": n, "answers": [{"answer": str(n)}, {"answer": "x"}]} for n in range(4)]
    (folder / "questions_test.json").write_text(json.dumps({"questions": asked}))
    (folder / "annotations_test.json").write_text(json.dumps({"annotations": said}))
    return folder / "questions_test.json"


def in_imagefolder(folder):
    (folder / "pics").rename(folder / "test")
    lines(folder / "test" / "metadata.jsonl", [{"file_name": f"{n}.png", "text": f"digit {n}"} for n in range(4)])
    return folder


def in_classfolder(folder):
    for n in range(4):
        (folder / "test" / f"kind{n % 2}").mkdir(parents=True, exist_ok=True)
        (folder / "pics" / f"{n}.png").rename(folder / "test" / f"kind{n % 2}" / f"{n}.png")
    return folder


def in_pairs(folder):
    (folder / "test").mkdir()
    for n in range(4):
        (folder / "pics" / f"{n}.png").rename(folder / "test" / f"{n}.png")
        (folder / "test" / f"{n}.txt").write_text(f"a digit {n}")
    return folder / "test"


@pytest.mark.parametrize(
    ("form", "metric", "count"),
    [
        (in_csv, "exact_match", 5),
        (in_llava_jsonl, "exact_match", 9),
        (in_coco, "cider", 3),
        (in_vqa, "exact_match", 4),
        (in_imagefolder, "cider", 4),
        (in_classfolder, "exact_match", 4),
        (in_pairs, "cider", 4),
    ],
)
def test_what_prepare_accepts_can_be_judged(evaluate, folder, form, metric, count):
    source = form(folder)
    evaluate.prepare(source)
    result, told, _ = evaluate()
    assert result.code == 0, result.err
    assert (told["metric"], told["count"]) == (metric, count)
    assert told["value"] == 1.0 if metric == "exact_match" else told["value"] > 1


def test_what_was_said_is_kept_for_the_same_weights_and_way_alone(evaluate, folder):
    lines(folder / "test.jsonl", [{"image": f"pics/{n}.png", "question": "which ?", "answer": "1"} for n in range(3)])
    evaluate.prepare(folder / "test.jsonl")
    _, told, _ = evaluate()
    assert (told["value"], len(evaluate.asked)) == (1.0, 2)
    evaluate.say = lambda record: "2"
    assert evaluate()[1]["value"] == 1.0
    assert evaluate.asked == []
    evaluate.model.train["kernel"] = jax.numpy.ones(3)  # trained on
    assert evaluate()[1]["value"] == 0.0
    evaluate.say = right
    assert evaluate()[1]["value"] == 0.0
    for changed in ("num_beams", "max_new_tokens", "repetition_penalty"):
        evaluate(f"--config.evaluation.settings={{'own': {{'{changed}': 3}}}}")
        assert len(evaluate.asked) == 2, changed
    evaluate("--config.evaluation.settings={'own': {'prompt': 'which digit ?'}}")
    assert len(evaluate.asked) == 2
    evaluate("--config.evaluation.settings={'own': {'prompt': 'which digit ?'}}", "--again")
    assert len(evaluate.asked) == 2


def test_dialogues_are_trained_on_and_judged_by_a_model(cli, world, folder, tmp_path):
    """Nothing stands in: from LLaVA's JSON to the table."""
    for split, count in (("train", 8), ("validation", 4)):
        dialogues(folder, count).rename(folder / f"{split}.json")
    prepared(cli, tmp_path, folder)
    given = (f"--config={world / 'tiny.py'}", f"--workdir={tmp_path / 'run'}")
    own = {"steps": 2, "mixture.sets": "own", "data.directory": tmp_path / "sets", "data.instruction_lengths": "64"}
    own |= {"evaluation.blind": False, "evaluation.held_in": "own", "evaluation.held_out": "()"}
    given += tuple(f"--config.{field}={value}" for field, value in own.items())
    for command in ("train", "evaluate"):
        result = cli(command, *given)
        assert result.code == 0, result.err
    kept = [json.loads(line) for line in (tmp_path / "run" / "predictions" / "own.jsonl").read_text().splitlines()]
    assert len(kept) > len({row["uid"].partition("#")[0] for row in kept}) > 1
    assert all("#turn" in row["uid"] and row["answers"] and "prediction" in row for row in kept)
    assert "| own | validation | exact_match |" in result.out


def test_a_way_that_a_set_does_not_have_is_named_before_the_model_is_loaded(evaluate, folder, monkeypatch):
    lines(folder / "test.jsonl", [{"image": f"pics/{n}.png", "question": "which ?", "answer": "1"} for n in range(3)])
    evaluate.prepare(folder / "test.jsonl")
    module = importlib.import_module("instructblip_jax.commands.evaluate")
    monkeypatch.setattr(module, "load", lambda *_: pytest.fail("the model was loaded"))
    for settings, words in (
        ("{'own': {'mode': 'rank'}}", "own/test/1: has no candidates"),
        ("{'own': {'mode': 'vocabulary'}}", "no vocabulary"),
        ("{'own': {'beams': 3}}", "no field 'beams'"),
    ):
        result, _, _ = evaluate(f"--config.evaluation.settings={settings}")
        assert (result.code, words in result.err) == (1, True), result.err


def test_a_report_that_cannot_be_written_is_told_before_the_work(cli, tmp_path):
    given = (f"--config={toys.ROOT / 'configs' / 'digits.py'}", f"--workdir={tmp_path}")
    result = cli("evaluate", *given, f"--json={tmp_path / 'none' / 'e.json'}")
    assert (result.code, "no such directory" in result.err) == (2, True), result.err


def test_the_papers_number_stands_beside_the_papers_model(evaluate, model, folder, tmp_path, monkeypatch):
    """A directory that is called as the hub calls it gets table 1's number, in the table's own unit."""
    named = tmp_path / "instructblip-flan-t5-xl"
    named.symlink_to(model)
    records = [
        Record(f"gqa/t/{n}", "gqa", "testdev_balanced", "vqa", (), {"question": "?"}, ("yes",)) for n in range(3)
    ]
    write.write(tmp_path / "sets", "gqa", {"testdev_balanced": lambda: iter(records)})
    source = (tmp_path / "own.py").read_text().replace(str(model), str(named)).replace('("own",)', '("gqa",)')
    (tmp_path / "own.py").write_text(source)
    Workdir(str(tmp_path / "run")).write_json(
        "config.json", dataclasses.asdict(resolve(runpy.run_path(str(tmp_path / "own.py"))["get_config"]()))
    )
    (tmp_path / "run" / "predictions").mkdir()
    (tmp_path / "run" / "predictions" / "own.jsonl").write_text("")
    report = tmp_path / "paper.json"
    given = (f"--config={tmp_path / 'own.py'}", f"--workdir={tmp_path / 'run'}", f"--json={report}")
    result = evaluate.cli("evaluate", *given)
    assert result.code == 0, result.err
    assert json.loads(report.read_text())["sets"]["gqa"]["paper"] == pytest.approx(0.484)
    assert [line.split("|")[8].strip() for line in result.out.splitlines() if "| gqa |" in line] == ["48.4"]
