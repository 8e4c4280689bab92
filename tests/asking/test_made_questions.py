"""Questions that a language model makes of captions: the checks, what is kept, and a tiny T5 that really writes."""

import csv
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from checkpoints import TINY
from safetensors.numpy import save_file

from instructblip_jax.asking import about_one, about_two, make, ratio
from instructblip_jax.asking.writer import FAMILY, ROWS, Writer
from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft
from instructblip_jax.datasets.readers.releases import RELEASES
from instructblip_jax.systems.build import merge


@pytest.mark.parametrize(
    ("one", "other", "want"),
    [
        ("bell", "A Bell rings", 100.0),
        ("A Bell rings", "bell", 100.0),
        ("", "a bell", 0.0),
        ("zzz", "a bell", 0.0),
        ("kitten", "a mitten here", 500 / 6),
    ],
)
def test_partial_ratio(one, other, want):
    assert ratio.partial(one, other) == pytest.approx(want)
    assert ratio.found(one, other) == (want > 90)


def test_likeness_is_of_rare_words():
    alike = ratio.Likeness(["a dog barks", "a dog growls", "a train passes", ""])
    assert alike.of(0, 0) == pytest.approx(1.0)
    assert alike.of(0, 1) > alike.of(0, 2) > 0 == alike.of(0, 3)


def mock(texts):
    """Answers the last word of a description, but asks nothing about trains and forgets bells."""
    found = []
    for text in texts:
        caption = text.removeprefix("Description: ").split(" Which")[0].split(" Write")[0].split(" Question:")[0]
        if text.endswith("Word:"):
            found.append("moon" if "cat" in caption else caption.split()[-1])
        elif text.startswith("Rewrite"):
            found.append(caption.rsplit(": ", 1)[1].replace("red ", ""))
        elif "Write a question" in text:
            found.append("" if "train" in caption else "What is it?")
        else:
            found.append("what" if caption.endswith("bell") else "moon" if "cat" in caption else caption.split()[-1])
    return found


def test_a_question_passes_both_checks_or_says_which_it_did_not():
    made = about_one.rows(mock, ["a dog", "a bell", "a cat", "a train"], shapes=False)
    assert made[0] == {"question": "What is it?", "answer": "dog", "extractive": "True", "correct": "True"}
    assert [(row.get("extractive"), row.get("correct")) for row in made[1:]] == [
        ("True", "False"),
        ("False", "True"),
        (None, None),
    ]
    assert about_one.counted(made) == {"captions": 4, "questions": 3, "extractive": 2, "correct": 2, "kept": 1}
    long = "a red dog that sits on a small wooden chair and barks loudly"
    first, second = about_one.rows(mock, [long, "a red dog"], shapes=True)
    assert (first["caption_no_color"], second) == (long.replace("red ", ""), {})


def clips(split, count, captions=1):
    """A split of recordings."""

    def rows():
        for n in range(count):
            answers = tuple(f"sound {n} by a dog{k}" for k in range(captions))
            meta = {"youtube_id": f"-id_{n}", "start": 30.0}
            yield Draft("f:1", Record(f"a/{split}/{n}", "a", split, "caption", (), {}, answers, meta=meta))

    return rows


def test_a_killed_command_goes_on_and_its_table_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(make, "BATCH", 4)
    splits = {"train": clips("train", 10), "test": clips("test", 1)}
    seen = []

    def killed(texts):
        seen.append(len(texts))
        if len(seen) > 4:  # within the second batch
            raise KeyboardInterrupt
        return mock(texts)

    with pytest.raises(KeyboardInterrupt):
        make.make("audiocaps_qa", splits, killed, "t5", tmp_path)
    kept = tmp_path / "audiocaps_qa_train.csv.made.jsonl"
    assert len(kept.read_text().splitlines()) == 1 + 4
    with kept.open("a") as file:
        file.write('{"question": "cut')
    asked = []
    report = make.make("audiocaps_qa", splits, lambda texts: asked.append(len(texts)) or mock(texts), "t5", tmp_path)
    assert sum(asked) == 3 * 6
    assert report == {
        "audiocaps_qa_train.csv": {"captions": 10, "questions": 10, "extractive": 10, "correct": 10, "kept": 10}
    }
    with (tmp_path / "audiocaps_qa_train.csv").open(newline="") as file:
        assert [row["youtube_id"] for row in csv.DictReader(file)] == [f"-id_{n}" for n in range(10)]
    read = [row.record for row in RELEASES["audiocaps_qa"].splits(tmp_path, ())["train"]()]
    assert [r.answers for r in read if r.slots["question"] == "what is it?"] == [("dog0",)] * 10
    with pytest.raises(ValueError, match=r"made\.jsonl: was made by t5 from other captions; remove it"):
        make.make("audiocaps_qa", splits, mock, "another", tmp_path)


def test_pairs_of_like_captions(tmp_path):
    def write(texts):
        found = []
        for text in texts:
            if text.startswith("List"):
                found.append("loud, near, alive")
            elif text.endswith("Question:"):
                lost = "sound 3 " in text.splitlines()[1].split("Second")[0]
                found.append(
                    "no idea" if lost else "Which is nearer? Answer: Second. Explanation: x. Which? Answer: first"
                )
            else:
                found.append("second" if "sound 1 " not in text else "first")
        return found

    report = make.make("discrn_av", {"val": clips("val", 6, 5)}, write, "t5", tmp_path)["audiocaps.json"]
    rows = json.loads((tmp_path / "audiocaps.json").read_text())
    assert report["kept"] == len(rows) < report["questions"] < report["pairs"] <= 6 * 5
    assert all(row["label"] == 1 and row["question"] == "Which is nearer?" for row in rows)
    assert not any("sound 1 " in caption for row in rows for caption in row["captions"])
    drafts = list(RELEASES["discrn_av"].splits(tmp_path, ())["val"]())
    assert [draft.record.label for draft in drafts] == [(n + 1) % 2 for n in range(len(rows))]
    first = drafts[0].record.meta["captions"]
    assert first == rows[0]["captions"]  # "second" is right, as in the file
    with pytest.raises(ValueError, match="split val, which is not there"):
        make.make("discrn_i3d", {"train": clips("train", 2)}, write, "t5", tmp_path)


def test_partners_are_among_the_nearest():
    captions = ["a dog barks", *(f"a dog growls {n}" for n in range(10)), *(f"train {n}" for n in range(30))]
    assert all(0 < other <= 10 for one, other in (about_two.partners(captions, 41, seed)[0] for seed in range(5)))
    assert about_two.partners(["same", "same"], 10, 0) == []
    assert about_two.plain("A 3D model of a red chair") == "red chair"


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """A tiny FlanT5 with drawn weights, in its public files."""
    directory = tmp_path_factory.mktemp("t5")
    sys.path.insert(0, str(toys.ROOT / "tools"))
    try:
        from digits_tokenizers import write_t5
    finally:
        sys.path.pop(0)
    words = write_t5(directory).get_vocab_size()
    section = {**TINY["text_config"], "vocab_size": words}
    (directory / "config.json").write_text(json.dumps(section))
    from instructblip_jax.asking.writer import _read_config
    from instructblip_jax.convert.rule import for_paths
    from instructblip_jax.mesh import single_device_mesh
    from instructblip_jax.systems.build import abstract

    config = _read_config(directory / "config.json")
    _, train, frozen = abstract(config, mesh=single_device_mesh(), dtype="float32")
    assert not train
    rng, tensors = np.random.default_rng(0), {}
    for path, rule in for_paths(FAMILY.rules(config), frozen).items():
        shape = frozen[path].shape
        for name in rule.names(shape):
            tensors[name] = rng.normal(0, 0.3, rule.tensor_shape(shape)).astype(np.float32)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def test_a_tiny_t5_writes_the_likeliest_tokens(t5):
    write = Writer.open(t5, dtype="float32", longest=3)
    texts = [f"is it a {n % 10}" for n in range(ROWS)] + ["red or blue"]
    answers = write(texts)
    assert len(answers) == len(texts)
    assert answers[:10] == answers[10:20]

    @jax.jit
    def likeliest(ids, so_far):
        system, mask = merge(write.model.graph, write.model.frozen), (ids != 0).astype(jnp.int32)
        encoded = system.llm.encode(system.llm.embed(ids), mask)
        return jnp.argmax(system.llm.logits(system.llm.run_decoder(so_far, encoded, mask)), axis=-1)

    ids = write.tokenizer.encode(texts[-1])[None]
    found = [0, 0, 0, 0]
    for n in range(3):
        found[n + 1] = int(likeliest(ids, jnp.array([found[:3]]))[0, n])
    assert answers[-1] == write.tokenizer.decode(found[1:]).strip()


def test_another_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="model_type is 'llama'; questions are generated by a T5"):
        Writer.open(tmp_path)
