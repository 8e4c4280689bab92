"""Files from the field, through the command line: every row of a file is written with the right text, or told."""

import json
import unicodedata

import pytest
from own_files import json_file, json_lines, picture

from instructblip_jax.data.prepared import open_set


@pytest.fixture
def prepare(cli, tmp_path):
    """Prepares the files of tmp_path / "own"; gives (records by split, what --json holds), or the failed result."""

    def run(*flags):
        out, report = tmp_path / "out", tmp_path / "report.json"
        result = cli("prepare", "custom", f"--source={tmp_path / 'own'}", f"--out={out}", f"--json={report}", *flags)
        run.out = result.out
        if result.code:
            return result
        told = json.loads(report.read_text())
        sets = {name: open_set(out, "own", name) for name, split in told["splits"].items() if split["written"]}
        return {name: [held[n] for n in range(len(held))] for name, held in sets.items()}, told

    for number in range(8):
        picture(tmp_path / "own" / f"{number}.png", 20 * number)
    return run


def answers(records):
    return [list(record.answers) for record in records]


NAMES = ("red", "green", "blue", "white", "black", "grey", "pink", "brown")


def table(folder, name, captions, sign="\t", end="\n", before=""):
    """A row a picture. Its caption is in between, so that a quote can swallow what follows; it is written as it is."""
    lines = [sign.join(("id", "caption", "image"))] + [
        sign.join((f"r{number}", caption, f"{number}.png")) for number, caption in enumerate(captions)
    ]
    (folder / "own" / name).write_bytes((before + end.join(lines) + end).encode())


BROKEN = {
    "at the beginning": {3: '"a black disc'},
    "in the middle": {3: 'a 5" disc'},
    "at the end": {3: 'a disc of 5"'},
    "in the last row": {7: '"a grey disc'},
    "in the first row": {0: '"a red disc'},
    "two of them": {2: '"a blue disc', 5: 'a disc of 5"'},
    "two that open": {2: '"a blue disc', 5: '"a grey disc'},
    "one of two closed": {2: '"a blue disc', 5: '"a grey disc"'},
    "closed too early": {3: '"so" he said'},
    "three": {3: '"a "black" disc'},
}


@pytest.mark.parametrize("where", BROKEN)
@pytest.mark.parametrize(
    ("name", "sign", "end", "before"),
    [
        ("train.tsv", "\t", "\n", ""),
        ("train.tsv", "\t", "\r\n", "\ufeff"),
        ("train.csv", ",", "\n", ""),
        ("train.csv", ";", "\r\n", ""),
        ("metadata.csv", ",", "\n", "\ufeff"),
    ],
)
def test_a_quote_that_is_not_closed_costs_no_other_row(prepare, tmp_path, where, name, sign, end, before):
    captions = list(NAMES)
    for row, text in BROKEN[where].items():
        captions[row] = text
    table(tmp_path, name, captions, sign, end, before)
    records, told = prepare()
    (split,) = told["splits"].values()
    assert split["written"] + split["skipped"] == len(captions)
    said = {record.uid.rpartition("/")[2]: record.answers[0] for record in records["train"]}
    for row, text in enumerate(captions):
        if f"r{row}" in said:
            assert said[f"r{row}"] in (text, text.removeprefix('"').removesuffix('"'))
        else:  # told with its line, and only in a CSV
            assert row in BROKEN[where]
            assert sign != "\t"
            assert f"{name}:{row + 2}: " in prepare.out
    assert split["reasons"] == ({"unbalanced quote": split["skipped"]} if split["skipped"] else {})


def test_cells_that_spreadsheets_quoted_are_read_as_they_were_written(prepare, tmp_path):
    quoted = ['"a ""red"" disc"', '"one line\nand another"', '"a\ttab, a comma"', '"so \\"it\\" is"']
    quoted.append('"First, one\nthen, two"')
    want = ['a "red" disc', "one line\nand another", "a\ttab, a comma", 'so "it" is', "First, one\nthen, two"]
    for name, sign in (("train.tsv", "\t"), ("val.csv", ",")):
        table(tmp_path, name, [*quoted, "plain"], sign)
    records, told = prepare()
    for split in ("train", "validation"):
        assert answers(records[split]) == [[text] for text in [*want, "plain"]]
        assert told["splits"][split]["skipped"] == 0
        assert f"{split}: 6 records and skips stand for 8 rows of the source" in told["notes"]


def test_rows_with_too_many_or_too_few_cells_are_counted(prepare, tmp_path):
    (tmp_path / "own" / "train.csv").write_text('image,caption\n0.png,"a\n1.png\n2.png,b,c\n\n3.png,d\n,,\n4.png,"e"\n')
    records, told = prepare()
    assert answers(records["train"]) == [["d"], ["e"]]
    assert told["splits"]["train"]["reasons"] == {
        "unbalanced quote": 1,
        "empty answer": 1,
        "more cells than columns": 1,
    }


@pytest.mark.parametrize(
    ("cell", "want"),
    [
        ("['red', 'dark red']", ["red", "dark red"]),
        ("['green']", ["green"]),
        ('["blue", "navy"]', ["blue", "navy"]),
        ("['red' 'dark red']", ["red", "dark red"]),
        ("['red'\n 'dark red']", ["red", "dark red"]),
        ("('red', 'blue')", ["red", "blue"]),
        ("""['it\\'s red', "the 'blue' one", 'a "disc"']""", ["it's red", "the 'blue' one", 'a "disc"']),
        ("['red', None, nan]", ["red"]),
        ("[1, 2.5, True]", ["1", "2.5", "true"]),
        ("[{'answer': 'red', 'answer_id': 1}, {'answer': 'blue', 'answer_id': 2}]", ["red", "blue"]),
        ('{"answer": ["red", "blue"], "answer_confidence": ["yes", "no"]}', ["red", "blue"]),
        (" ['red']", ["red"]),
        ("red", ["red"]),
        ("(a small one)", ["(a small one)"]),
        ("['red', 'dark red'", None),
        ("[red, blue]", None),
        ("['red' ... 'blue']", None),
        ("[" * 5000, None),
        ("[x", None),
    ],
)
@pytest.mark.parametrize("name", ["train.csv", "train.jsonl"])
def test_a_list_that_is_text_is_a_list_or_told(prepare, tmp_path, name, cell, want):
    if name == "train.csv":
        doubled = cell.replace('"', '""')
        (tmp_path / "own" / name).write_text(f'image,question,answers\n0.png,Which?,"{doubled}"\n1.png,Which?,last\n')
    else:
        rows = [{"image": f"{n}.png", "question": "Which?", "answers": text} for n, text in enumerate((cell, "last"))]
        json_lines(tmp_path / "own" / name, *rows)
    records, told = prepare()
    assert answers(records["train"]) == [want, ["last"]] if want else [["last"]]
    assert told["splits"]["train"]["reasons"] == ({} if want else {"broken list in answers": 1})


def test_lists_of_candidates_and_weights_and_single_answers(prepare, tmp_path):
    (tmp_path / "own" / "train.csv").write_text(
        "image,question,choices,weights,answer\n"
        "0.png,Which?,\"['red', 'blue']\",,red\n"
        "1.png,Which?,,\"(1, 3)\",\"['x', 'y']\"\n"
        '2.png,Where?,,,"[0.1, 0.2]"\n3.png,Which?,,,[x\n'
    )
    records, _ = prepare()
    first, second, third, fourth = records["train"]
    assert (first.candidates, first.label) == (("red", "blue"), 0)
    assert (second.answers, second.weights) == (("y", "x"), (0.75, 0.25))
    assert (third.answers, fourth.answers) == (("[0.1, 0.2]",), ("[x",))


def talk(*turns):
    return {"image": "0.png", "conversations": [{"from": who, "value": text} for who, text in turns]}


def test_turns_without_a_partner_are_joined_or_told(prepare, tmp_path):
    rows = [
        talk(("human", "What?"), ("gpt", "A box."), ("gpt", "It is red."), ("human", "Sure?"), ("gpt", "Yes.")),
        talk(("human", "What?"), ("gpt", "A drum."), ("human", "Which shape?")),
        talk(("gpt", "Ask me."), ("system", "Be brief."), ("human", "What?"), ("human", "Say."), ("gpt", "A cup.")),
        talk(("human", "What?"), ("gpt", ""), ("system", "Now."), ("gpt", "A jar."), ("gpt", " \u200b")),
        talk(("gpt", "Nobody asked.")),
        talk(("human", "What?"), ("gpt", "\ufeff")),
    ]
    json_file(tmp_path / "own" / "train.json", rows)
    records, told = prepare()
    assert [record.turns for record in records["train"]] == [
        (("What?", "A box.\nIt is red."), ("Sure?", "Yes.")),
        (("What?", "A drum."),),
        (("What?\nSay.", "A cup."),),
        (("What?", "A jar."),),
    ]
    assert told["splits"]["train"]["reasons"] == {"empty answer": 2}
    row = next(line for line in prepare.out.splitlines() if line.startswith("train "))
    for count, note, line in (
        (2, "answers in a row joined", 1),
        (1, "questions in a row joined", 3),
        (1, "question without an answer left out", 2),
        (1, "answer before any question left out", 3),
    ):
        assert f"{count} {note}" in row
        assert f"train: {count} × {note}: {tmp_path / 'own' / 'train.json'}:{line}" in prepare.out


@pytest.mark.parametrize("blank", ["\u200b", "\ufeff\u00ad", "\u2060 \u200d", "\u3164", "\u0007\u200e", "\ufe0f"])
def test_an_answer_that_shows_nothing_is_empty(prepare, tmp_path, blank):
    json_lines(tmp_path / "own" / "train.jsonl", {"image": "0.png", "answer": blank}, {"image": "1.png", "answer": "x"})
    records, told = prepare()
    assert answers(records["train"]) == [["x"]]
    assert told["splits"]["train"]["reasons"] == {"empty answer": 1}


@pytest.mark.parametrize(("here", "there"), [("1", 1), (1, "1"), (1.0, "1"), (1, 1.0), ("1", "1")])
def test_ids_meet_as_text_or_number(prepare, tmp_path, here, there):
    images = [{"id": here, "file_name": "1.png"}, {"id": 7, "file_name": "2.png"}]
    said = [{"id": n, "image_id": there, "caption": text} for n, text in enumerate(("A box.", "One box."))]
    for name in ("captions_train.json", "captions_val.json"):
        json_file(tmp_path / "own" / name, {"images": images, "annotations": [*said, {"image_id": 9, "caption": "?"}]})
    records, told = prepare()
    assert answers(records["train"]) == [["A box."], ["One box."]]
    assert [record.references for record in records["validation"]] == [("A box.", "One box.")]
    for split in ("train", "validation"):
        assert told["splits"][split]["reasons"] == {"no such image id": 1, "picture without a caption": 1}


@pytest.mark.parametrize(("here", "there"), [("5", 5), (5, "5"), (5.0, 5)])
def test_questions_and_annotations_meet_and_what_is_left_is_told(prepare, tmp_path, here, there):
    questions = [{"question_id": here, "image_id": 0, "question": "What?"}]
    said = [{"question_id": there, "answers": [{"answer": "red", "answer_id": n} for n in range(3)]}]
    said += [{"question_id": there, "answers": [{"answer": "blue"}]}, {"question_id": 6, "answers": [{"answer": "x"}]}]
    json_file(tmp_path / "own" / "train_questions.json", {"questions": questions})
    json_file(tmp_path / "own" / "train_annotations.json", {"annotations": said})
    records, told = prepare()
    assert [record.references for record in records["train"]] == [("red", "red", "red")]
    assert told["splits"]["train"]["reasons"] == {"a second annotation of a question": 1, "no such question": 1}


def test_answers_as_objects(prepare, tmp_path):
    said = ("red", "red", "blue")
    told = [{"answer": text, "answer_confidence": "yes", "answer_id": n} for n, text in enumerate(said)]
    given = [told, told[2], {"answer": ["red", "blue"], "answer_id": [1, 2]}, [{"caption": "red"}], [{"text": "red"}]]
    rows = [{"image": "0.png", "question": "What?", "answers": each} for each in given]
    rows.append(rows[0] | {"weights": [1, 1, 2]})
    json_lines(tmp_path / "own" / "train.jsonl", *rows)
    records, report = prepare()
    assert answers(records["train"]) == [["red", "blue"], ["blue"], ["red", "blue"], ["red"], ["red", "blue"]]
    assert records["train"][0].references == ("red", "red", "blue")
    assert [record.weights for record in records["train"]][4] == (0.5, 0.5)
    assert report["splits"]["train"]["reasons"] == {"answer is not text": 1}


def test_numbers_that_are_none_cost_no_row_where_nobody_reads_them(prepare, tmp_path):
    nan, endless = float("nan"), float("inf")
    rows = [
        {"image": "0.png", "question": "What?", "answer": "red", "score": nan, "more": {"a": nan, "b": [endless, 1]}},
        {"image": "1.png", "question": "What?", "answer": nan, "answers": ["blue", nan], "id": nan},
        {"image": "2.png", "question": nan, "answer": "green", "weights": nan, "score": -endless},
        {"image": "3.png", "question": "What?", "answer": endless},
        {"image": "4.png", "question": "What?", "answer": nan},
    ]
    json_lines(tmp_path / "own" / "train.jsonl", *rows)
    json_file(tmp_path / "own" / "val.json", rows)
    json_file(tmp_path / "own" / "test.json", {"annotations": rows})
    records, told = prepare()
    train = answers(records["train"])
    assert train == [["red"], ["blue"], ["green"]]
    assert told["splits"]["train"]["reasons"] == {"answer is an infinite number": 1, "empty answer": 1}
    assert records["train"][0].meta == {"more": {"b": [None, 1]}}
    for split in ("validation", "test"):  # where a record may have no answer
        assert answers(records[split]) == [*train, []]
        assert told["splits"][split]["reasons"] == {"answer is an infinite number": 1}


LAYOUTS = {
    "one line": lambda rows: json.dumps({"annotations": rows}),
    "info first": lambda rows: '{"info": {},\n "annotations": ' + json.dumps(rows) + "}",
    "rows below": lambda rows: '{"annotations": [\n' + ",\n".join(map(json.dumps, rows)) + "\n]}\n",
    "indented": lambda rows: json.dumps({"info": {"by": "us"}, "annotations": rows}, indent=2),
    "a list": lambda rows: json.dumps(rows),
    "a list below": lambda rows: "\n[\n" + ",\n".join(map(json.dumps, rows)) + "]",
    "lines": lambda rows: "\n".join(map(json.dumps, rows)),
    "lines, blank ones between": lambda rows: "\r\n\r\n".join(map(json.dumps, rows)) + "\r\n",
    "marked": lambda rows: "\ufeff" + json.dumps({"annotations": rows}, indent=1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_json_is_read_however_it_is_laid_out(prepare, cli, tmp_path, layout):
    rows = [{"id": n, "image": f"{n}.png", "caption": f"a {name} disc"} for n, name in enumerate(NAMES[:3])]
    (tmp_path / "own" / "train.json").write_text(LAYOUTS[layout](rows))
    records, told = prepare()
    assert answers(records["train"]) == [[row["caption"]] for row in rows]
    assert told["splits"]["train"]["skipped"] == 0
    path = tmp_path / "own" / "train.json"
    result = cli("score", "exact_match", f"--predictions={path}", f"--references={path}")
    assert "| **exact_match** | **100.00** |" in result.out, result.err


@pytest.mark.parametrize("name", ["train.jsonl", "train.json"])
def test_a_key_twice_in_a_row_is_told(prepare, tmp_path, name):
    good = ['{"image": "0.png", "answer": "a", "answer": "a"}', '{"image": "1.png", "answer": "c"}']
    lines = [*good, '{"image": "0.png", "answer": "a", "answer": "b"}']
    (tmp_path / "own" / name).write_text("\n".join(lines) if name.endswith("l") else f"[{','.join(lines)}]")
    records, told = prepare()
    assert answers(records["train"]) == [["a"], ["c"]]
    assert told["splits"]["train"]["reasons"] == {"key twice in an object": 1}


COMPOSED, DECOMPOSED = "B\u00fcro/Gr\u00fc\u00dfe", "Bu\u0308ro/Gru\u0308\u00dfe"


@pytest.mark.parametrize("disk", [COMPOSED, DECOMPOSED, "B\u00fcro/Gru\u0308\u00dfe"])
def test_accents_case_and_slashes_are_forgiven_in_every_part(prepare, tmp_path, disk):
    picture(tmp_path / "own" / "pics" / disk / "E\u0301te\u0301.png")
    said = [f"pics/{COMPOSED}/\u00c9t\u00e9.png", f"pics/{DECOMPOSED}/E\u0301te\u0301.png"]
    said.append(f"Pics/{COMPOSED.upper()}/\u00e9T\u00e9.PNG")
    said += [text.replace("/", "\\") for text in said]
    said += [f"pics/{COMPOSED}\\\u00c9t\u00e9.png", f"./pics\\{DECOMPOSED}/\u00c9t\u00e9.png"]
    rows = [{"image": text, "answer": str(n)} for n, text in enumerate(said)]
    json_lines(tmp_path / "own" / "train.jsonl", *rows)
    records, told = prepare()
    assert unicodedata.is_normalized("NFC", COMPOSED)
    assert not unicodedata.is_normalized("NFC", DECOMPOSED)
    assert answers(records["train"]) == [[str(n)] for n in range(8)]
    assert told["splits"]["train"]["skipped"] == 0


def test_a_backslash_in_a_name_is_looked_for_first_and_nothing_leads_out(prepare, tmp_path):
    picture(tmp_path / "secret.png")
    own = tmp_path / "own"
    inside, apart = picture(own / "a\\b.png", 10), picture(own / "a" / "b.png", 200)
    (own / "Out").symlink_to(tmp_path)
    said = ["a\\b.png", "a/b.png", "..\\secret.png", "a/..\\..\\secret.png", "out/secret.png", "a/../0.png"]
    json_lines(own / "train.jsonl", *({"image": text, "answer": str(n)} for n, text in enumerate(said)))
    records, told = prepare()
    assert answers(records["train"]) == [["0"], ["1"], ["5"]]
    assert [record.images[0] for record in records["train"][:2]] == [inside.read_bytes(), apart.read_bytes()]
    assert told["splits"]["train"]["reasons"] == {"path outside the image root": 2, "missing picture": 1}
