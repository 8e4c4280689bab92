"""ScienceQA's three forms: the literal texts of the release, on problems written out here."""

import json

import pytest

from instructblip_jax.data.templates import instruction
from instructblip_jax.datasets import prompts
from instructblip_jax.datasets.draft import Skip
from instructblip_jax.datasets.readers.releases import RELEASES
from instructblip_jax.datasets.readers.scienceqa_reasons import CLASSES, classes_of

FORMS = ("scienceqa_qcm_a", "scienceqa_qcm_ale", "scienceqa_qcm_lea")
FULL = {
    "question": "Which  sinks?",
    "choices": ["a cork", "a stone ", "a  leaf"],
    "answer": 1,
    "hint": "A jar.\nIt is full.",
    "image": "image.png",
    "grade": "grade8",
    "subject": "natural science",
    "lecture": "Dense things sink.\nLight   ones float.",
    "solution": "Stone is dense.",
    "split": "train",
}
BARE = FULL | {"hint": "", "image": None, "lecture": "", "solution": "", "grade": "grade1", "subject": "social science"}


@pytest.fixture
def drafts(tmp_path):
    """The rows of a form's training split, read from ``problems``."""

    def read(form, *problems):
        (tmp_path / "problems.json").write_text(json.dumps(dict(zip("123456", problems, strict=False))))
        return list(RELEASES[form].splits(tmp_path, ())["train"]())

    return read


LECTURE = r"Dense things sink.\nLight  ones float. Stone is dense."
"""Three blanks become two: the release collapses them once."""
TARGETS = {
    "scienceqa_qcm_a": "The answer is B.",
    "scienceqa_qcm_ale": f"The answer is B. BECAUSE: {LECTURE}",
    "scienceqa_qcm_lea": f"{LECTURE} The answer is B.",
}


@pytest.mark.parametrize("form", FORMS)
def test_a_problem_with_everything(drafts, form):
    (draft,) = drafts(form, FULL)
    record = draft.record
    asked = "Question: Which sinks?\nContext: A jar.\nIt is full.\nOptions: (A) a cork (B) a stone (C) a leaf\nAnswer:"
    for templates in (prompts.TRAINING, prompts.evaluation_templates(form)):
        assert len(templates[form]) == 1
        assert instruction(templates, record, 5) == asked
    assert record.answers == (TARGETS[form],)
    assert (record.uid, record.dataset, record.question_id) == (f"{form}/train/1", form, "1")
    assert record.candidates == ("The answer is A.", "The answer is B.", "The answer is C.")
    assert record.label == 1
    assert record.meta["classes"] == ["NAT", "TXT", "IMG", "G7-12"]
    assert (record.meta["lecture"], len(draft.media)) == (FULL["lecture"], 1)


@pytest.mark.parametrize("form", FORMS)
def test_a_problem_with_nothing_but_its_options(drafts, form):
    (draft,) = drafts(form, BARE)
    asked = instruction(prompts.TRAINING, draft.record, 0)
    assert asked == "Question: Which sinks?\nContext: N/A\nOptions: (A) a cork (B) a stone (C) a leaf\nAnswer:"
    assert draft.record.answers == ("The answer is B.",)  # no "BECAUSE:" without a reason
    assert draft.record.meta["classes"] == ["SOC", "NO", "G1-6"]
    assert draft.media == ()


def test_an_explanation_without_a_lecture(drafts):
    row = {name: value for name, value in FULL.items() if name != "lecture"}
    said = {form: drafts(form, row)[0].record.answers[0] for form in FORMS}
    assert said["scienceqa_qcm_ale"] == "The answer is B. BECAUSE: Stone is dense."
    assert said["scienceqa_qcm_lea"] == "Stone is dense. The answer is B."


def test_a_lecture_that_is_no_text_is_counted_and_left_out(drafts):
    kept, bad, worse = drafts("scienceqa_qcm_lea", FULL, FULL | {"solution": 3}, FULL | {"answer": 3})
    assert kept.record.label == 1
    assert isinstance(bad, Skip)
    assert (bad.reason, bad.detail, bad.where.rpartition(":")[2]) == ("wrong type", "solution: 3", "2")
    assert worse.reason == "label outside the candidates"


def test_classes_as_the_release_counts_them():
    assert CLASSES == ("NAT", "SOC", "LAN", "TXT", "IMG", "NO", "G1-6", "G7-12")
    assert classes_of("language science", "grade6", hint=False, picture=True) == ("LAN", "IMG", "G1-6")
    assert classes_of("natural science", "grade7", hint=True, picture=False) == ("NAT", "TXT", "G7-12")
    assert classes_of(None, ["grade12"], hint=False, picture=False) == ("NO",)
