"""`score`: files of anybody's predictions, in the forms that are about; no model and no jax."""

import json
import os
import re
import subprocess
import sys

import pytest
import toys

from instructblip_jax.evals.metrics import METRICS


@pytest.fixture
def score(cli, tmp_path):
    """Scores rows (or text as it is) and gives what --json holds, or the result of the command where it failed."""

    def write(name, rows):
        text = rows if isinstance(rows, (str, bytes)) else "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path / name

    def run(metric, predictions, references):
        paths = [f"--predictions={write('p.jsonl', predictions)}", f"--references={write('r.jsonl', references)}"]
        result = cli("score", metric, *paths, f"--json={tmp_path / 'out.json'}")
        run.out = result.out
        return json.loads((tmp_path / "out.json").read_text()) if result.code == 0 else result

    return run


def test_the_example_of_the_page_prints_what_the_page_says(cli, tmp_path, monkeypatch):
    page = (toys.ROOT / "docs" / "metrics.md").read_text()
    for name, content in re.findall(r"`(\w+\.jsonl)`\n\n```json\n(.*?)```", page, re.DOTALL):
        (tmp_path / name).write_text(content)
    command, printed = re.search(r"`instructblip (score .*?)` prints\n\n```text\n(.*?)```", page, re.DOTALL).groups()
    monkeypatch.chdir(tmp_path)
    result = cli(*command.split())
    assert (result.code, result.err) == (0, "")
    assert result.out == printed
    assert "without a prediction, which count as wrong: 1" in printed


def test_the_page_names_every_metric():
    page = (toys.ROOT / "docs" / "metrics.md").read_text()
    named = set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE))
    assert named | {"bleu2", "bleu3", "bleu4"} == METRICS.keys()


def test_what_programs_and_people_get(score):
    references = [{"id": n, "answers": ["yes"], "answer_type": "yes/no" if n < 2 else "other"} for n in range(4)]
    got = score("exact_match", [{"id": n, "prediction": "Yes." if n else "no"} for n in range(3)], references)
    assert {name: got[name] for name in ("metric", "value", "count", "missing")} == {
        "metric": "exact_match",
        "value": 0.5,
        "count": 4,
        "missing": 1,
    }
    low, high = got["interval"]
    assert 0 <= low < 0.5 < high <= 1
    assert got["details"] == {
        "answer_type": {"other": {"value": 0.5, "count": 2}, "yes/no": {"value": 0.5, "count": 2}}
    }
    assert f"| **exact_match** | **50.00** | {100 * low:.2f} – {100 * high:.2f} | 4 |" in score.out
    assert "| answer_type yes/no | 50.00 | | 2 |" in score.out
    assert "without a prediction, which count as wrong: 1" in score.out


VQA = {"annotations": [{"question_id": 7, "image_id": 1, "answers": [{"answer": "red", "answer_id": 1}] * 4}]}


@pytest.mark.parametrize(
    ("metric", "predictions", "references", "want"),
    [
        ("vqa_accuracy", json.dumps([{"question_id": "7", "answer": "red"}]), json.dumps(VQA), 1.0),
        ("vqa_accuracy", json.dumps([{"question_id": 7, "answer": "red"}], indent=2), json.dumps(VQA, indent=2), 1.0),
        ("exact_match", [{"uid": "s/1", "prediction": "a", "answers": ["a"]}], [{"uid": "s/1", "answers": ["a"]}], 1.0),
        ("exact_match", '\ufeff{"id": 1, "answer": 3}\r\n\r\n', [{"id": 1, "answer": "3"}], 1.0),
        ("exact_match", [{"id": 1, "answer": True}], [{"image": 9, "id": 1, "answer": "true"}], 1.0),
        ("exact_match", [{"question_id": 1, "answer": "x"}], [{"id": 1, "answer": "x"}], 1.0),
        ("rouge_l", [{"image_id": 1, "caption": "a dog"}], [{"image_id": 1, "id": 5, "caption": "a dog"}] * 2, 1.0),
        ("bleu1", [{"image_id": 1, "caption": "a dog"}], [{"image_id": 1, "references": ["cat", "a dog"]}], 1.0),
        ("aokvqa_da", [{"question_id": "q", "answer": "b"}], [{"question_id": "q", "direct_answers": ["b"] * 10}], 1.0),
        ("accuracy", [{"id": 1, "scores": [0, -2]}], [{"id": 1, "choices": ["a", "b"], "correct_choice_idx": 0}], 1.0),
        ("accuracy", [{"id": 1, "answer": "b"}], [{"id": 1, "candidates": ["a", "b"], "label": 1}], 1.0),
        ("accuracy", [{"id": 1, "answer": 3}], [{"id": 1, "label": 3}], 1.0),
        ("mrr", '{"id": 1, "scores": [1, 2, -Infinity]}', [{"id": 1, "candidates": list("abc"), "gt_index": 0}], 0.5),
        ("yes_no", [{"id": 1, "answer": "No."}], [{"id": 1, "label": "0", "caption": "the cat is up"}], 1.0),
        ("auc", [{"id": n, "score": n / 9} for n in range(4)], [{"id": n, "label": n > 1} for n in range(4)], 1.0),
        ("top1", [{"id": 1, "scores": [0, 1]}], [{"id": 1, "candidates": ["a", "b"], "answer": "b"}], 1.0),
    ],
)  # fmt: skip
def test_the_rows_that_are_understood(score, metric, predictions, references, want):
    got = score(metric, predictions, references)
    assert got["value"] == pytest.approx(want)
    assert got["missing"] == 0


def test_captions_of_a_picture_are_merged(score):
    said = [{"image_id": n, "caption": text} for n, text in enumerate(["a red kite over the wall", "a dog"])]
    rows = [(0, "a kite"), (1, "the small boat"), (0, "a red kite over a wall"), (1, "boat by a pier")]
    got = score("cider", said, [{"image_id": n, "caption": text, "id": at} for at, (n, text) in enumerate(rows)])
    lists = score("cider", said, [{"image_id": n, "captions": [text for m, text in rows if m == n]} for n in range(2)])
    assert got == lists
    assert got["count"] == 2
    assert got["value"] > 0


def test_auc_of_one_class_is_told_and_no_crash(score):
    got = score("auc", [{"id": 1, "score": 0.2}], [{"id": 1, "label": 1}])
    assert (got["value"], got["interval"]) == (None, None)
    assert "both classes" in got["reason"]
    assert "undefined" in score.out
    assert "both classes" in score.out


GOOD = [{"id": 1, "answer": "a"}, {"id": 2, "answer": "b"}]


@pytest.mark.parametrize(
    ("predictions", "references", "words"),
    [
        ('{"id": 1, "answer": "a"}\n{"id": 2, "answ', GOOD, ["p.jsonl, line 2", "not valid JSON", "column"]),
        ('{"id": 1,\n', GOOD, ["p.jsonl, line 1", "not valid JSON"]),
        ("[1, 2", GOOD, ["p.jsonl", "not valid JSON"]),
        ("[1, 2]", GOOD, ["p.jsonl, row 1", "int"]),
        ('{"id": 1, "answer": "a"}\n["x"]\n', GOOD, ["p.jsonl, line 2", "list"]),
        (b'{"id": 1, "answer": "a"}\n{"id": 2, "answer": "\xff"}\n', GOOD, ["p.jsonl, line 2", "UTF-8"]),
        ('{"id": 1, "scores": [NaN]}', GOOD, ["p.jsonl, line 1", "NaN"]),
        ("\n", GOOD, ["p.jsonl", "no rows"]),
        ("[]", GOOD, ["p.jsonl", "no rows"]),
        (GOOD, "", ["r.jsonl", "no rows"]),
        ([*GOOD, {"id": 1, "answer": "c"}], GOOD, ["p.jsonl, line 3", "id '1'", "twice"]),
        (GOOD, [*GOOD, {"id": 2, "answer": "c"}], ["r.jsonl, line 3", "id '2'", "twice"]),
        (GOOD, [*GOOD, {"id": 2, "label": 1, "caption": "c"}], ["r.jsonl, line 3", "twice"]),
        ([*GOOD, {"id": "x9", "answer": "c"}], GOOD, ["p.jsonl, line 3", "'x9'", "no reference"]),
        ([GOOD[0], {"answer": "c"}], GOOD, ["p.jsonl, line 2", "no id", "question_id"]),
        ([GOOD[0], {"uid": 2, "answer": "c"}], GOOD, ["p.jsonl", "no id"]),
        ([{"id": 1.5, "answer": "c"}], GOOD, ["p.jsonl, line 1", "id is a float"]),
        ([{"id": 1, "answers": ["c"]}], GOOD, ["p.jsonl, line 1", "no prediction"]),
        ([{"id": 1, "answer": None}], GOOD, ["p.jsonl, line 1", "no prediction"]),
        ([{"id": 1, "answer": ["c"]}], GOOD, ["p.jsonl, line 1", "list where a text"]),
        ([{"id": 1, "scores": ["c"]}], GOOD, ["p.jsonl, line 1", "a score is a number"]),
        (GOOD, [{"id": 1, "answers": [None]}, GOOD[1]], ["r.jsonl, line 1", "NoneType where a text"]),
        (GOOD, [{"id": 1, "label": "red"}, GOOD[1]], ["r.jsonl, line 1", "the label is a number"]),
        (GOOD, [{"id": 1}, GOOD[1]], ["1: the reference has no answers"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(score, predictions, references, words):
    result = score("exact_match", predictions, references)
    assert result.code == 1
    assert result.out == ""
    line = result.err.rstrip("\n")
    assert line.startswith("instructblip score: ")
    assert "\n" not in line
    for word in words:
        assert word in line, line


PICTURES = [f"{number}0" for number in range(1, 21)]
CAPTIONED = [
    {"id": 5 * n + k, "image_id": int(name), "caption": f"a {name} box number {k} by the {PICTURES[n - 1]} wall"}
    for n, name in enumerate(PICTURES)
    for k in range(5)
]


@pytest.mark.parametrize(
    "ids",
    [
        lambda n, name: {"image_id": name},
        lambda n, name: {"id": n, "image_id": int(name)},  # n is also the number of a caption, of another picture
        lambda n, name: {"image_id": float(name), "id": None},
        lambda n, name: {"id": name},
        lambda n, name: {"id": n, "image_id": int(name), "image": "x/a.png"},
    ],
)
def test_captions_are_joined_by_their_picture_whatever_their_own_ids(score, ids):
    said = [
        ids(n, name) | {"caption": f"a {name} box number 2 by the {PICTURES[n - 1]} wall"}
        for n, name in enumerate(PICTURES)
    ]
    got = score("cider", said, json.dumps({"images": [], "annotations": CAPTIONED}))
    plain = [
        {"image_id": int(name), "captions": [row["caption"] for row in CAPTIONED[5 * n : 5 * n + 5]]}
        for n, name in enumerate(PICTURES)
    ]
    want = score(
        "cider",
        [{"image_id": int(name), "caption": row["caption"]} for name, row in zip(PICTURES, said, strict=True)],
        plain,
    )
    assert got["value"] == want["value"] > 2
    assert (got["count"], got["missing"]) == (20, 0)


def test_a_single_caption_may_be_joined_by_its_own_id(score):
    known = [{"id": f"c{n}", "image_id": n // 1, "caption": text} for n, text in enumerate(("a dog", "a cat"))]
    assert (
        score("exact_match", [{"id": f"c{n}", "caption": row["caption"]} for n, row in enumerate(known)], known)[
            "value"
        ]
        == 1
    )
    assert (
        score("exact_match", [{"id": n, "caption": row["caption"]} for n, row in enumerate(known)], known)["value"] == 1
    )


@pytest.mark.parametrize(
    ("said", "known", "words"),
    [
        (
            {"question_id": 1, "image_id": 7},
            {"question_id": 1, "image_id": 8},
            ["image_id is '7', but '8'", "question_id"],
        ),
        ({"uid": "a", "id": 1}, {"uid": "a", "id": 2}, ["id is '1', but '2'"]),
        ({"id": 1, "image": "a.png"}, {"id": 1, "image": "b.png"}, ["image is 'a.png', but 'b.png'"]),
        ({"id": 1, "image": "C:\\x\\a.png", "image_id": 3.0}, {"id": "1", "image": "y/a.png", "image_id": "3"}, []),
    ],
)
def test_rows_that_another_id_tells_apart_are_an_error(score, said, known, words):
    result = score("exact_match", [said | {"answer": "x"}], [known | {"answer": "x"}])
    if not words:
        assert result["value"] == 1
        return
    assert result.code == 1
    assert result.err.count("\n") == 1
    assert all(word in result.err for word in ["p.jsonl, line 1", "r.jsonl, line 1", *words]), result.err


def test_what_never_ends_or_is_no_file_is_refused(cli, tmp_path):
    good = tmp_path / "r.jsonl"
    good.write_text('{"id": 1, "answer": "x"}\n')
    os.mkfifo(tmp_path / "pipe")
    for wrong in ("/dev/zero", tmp_path / "pipe", tmp_path):
        result = cli("score", "exact_match", f"--predictions={wrong}", f"--references={good}")
        assert (result.code, result.err.count("\n")) == (1, 1)
        assert f"{wrong}: not an ordinary file" in result.err


@pytest.mark.parametrize("text", ["[" * 100_000, '{"id": 1, "answer": ' + "[" * 100_000, '[{"id": ' * 50_000])
def test_predictions_nested_without_end_are_told_in_a_line(score, text):
    result = score("exact_match", text, GOOD)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "p.jsonl" in result.err
    assert "nested too deeply" in result.err


def test_nan_is_absent_where_nobody_reads_it_and_keys_are_there_once(score):
    said = (
        '{"id": 1, "answer": "a", "score": NaN, "more": [NaN]}\n{"id": 2, "answer": NaN, "caption": "b", "uid": NaN}\n'
    )
    assert score("exact_match", said, GOOD)["value"] == 1
    result = score("exact_match", '{"id": 1, "answer": "a", "answer": "b"}', GOOD)
    assert (result.code, "p.jsonl, line 1: key twice in an object: 'answer'" in result.err) == (1, True)


@pytest.mark.parametrize(
    "answers",
    [
        [{"answer": "red", "answer_confidence": "yes"}] * 4,
        {"answer": ["red"] * 4, "answer_id": [1, 2, 3, 4]},
        [{"caption": "red"}] * 4,
        ["red"] * 4,
    ],
)
def test_answers_as_objects(score, answers):
    assert (
        score("vqa_accuracy", [{"question_id": 1, "answer": "red"}], [{"question_id": "1", "answers": answers}])[
            "value"
        ]
        == 1
    )


def test_a_wrong_command_line(cli, tmp_path):
    for argv in (["rouge"], [], ["cider", "bleu4"]):
        result = cli("score", *argv, "--predictions=p", "--references=r")
        assert result.code == 2
        assert all(name in result.err for name in METRICS)
    for flags in ([], ["--predictions=p"], ["--references=r"]):
        result = cli("score", "cider", *flags)
        assert (result.code, "--references" in result.err) == (2, True)
    result = cli("score", "cider", f"--predictions={tmp_path / 'none.jsonl'}", f"--references={tmp_path / 'r.jsonl'}")
    assert (result.code, "none.jsonl: no such file" in result.err) == (1, True)


def test_jax_is_not_imported(tmp_path):
    """In a process of its own, as on a machine that has nothing else to do."""
    (tmp_path / "rows.jsonl").write_text('{"id": 1, "prediction": "a dog", "answers": ["a dog"]}\n')
    code = (
        "import sys; from instructblip_jax.__main__ import main; code = main(['instructblip', *sys.argv[1:]]); "
        "print(code, sorted({'jax', 'flax', 'torch', 'grain', 'transformers'} & sys.modules.keys()))"
    )
    for references, want in (("rows.jsonl", "0 []"), ("none.jsonl", "1 []")):
        argv = ["score", "cider", "--predictions=rows.jsonl", f"--references={references}"]
        done = subprocess.run(
            [sys.executable, "-c", code, *argv], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert done.stdout.splitlines()[-1:] == [want], done.stderr
        assert ("| **cider** | **0.00** |" in done.stdout) == (want == "0 []")
