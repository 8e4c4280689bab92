"""How sets are judged, what a suite's table and picture show, and what evaluation servers get."""

import dataclasses

import pytest
import toys
from PIL import Image

from instructblip_jax.datasets.prompts import BY_TASK, PROMPTS, evaluation_templates, sense_templates
from instructblip_jax.datasets.readers import pretraining
from instructblip_jax.datasets.readers.releases import RELEASES
from instructblip_jax.evals import plot, submission
from instructblip_jax.evals.metrics import METRICS
from instructblip_jax.evals.suite import MODES, SUITE, EvalSpec, eval_spec
from instructblip_jax.evals.table import SetResult, markdown
from instructblip_jax.recipes import instructblip, x_instructblip, x_instructblip_judged

LLAVA = {"llava_instruct_150k", "llava_cc3m_595k", "llava_lcs_558k", "llava_v1_5_mix665k"}
REASONED = ("scienceqa_qcm_a", "scienceqa_qcm_ale", "scienceqa_qcm_lea")
PAIRS = {"coco_retrieval", "flickr30k_retrieval", "nlvr2", "snli_ve"}
"""Those that ALBEF and BLIP are judged on."""
BINDING = ("open_ended_mi", "real_name_mi", "fast_vqa", "guided_vqa")
"""Frozen's."""
TEXTS = ("mmc4", "obelics", "unnatural_instructions", "flan_v2")
SENSED_CAPTIONS = ("audiocaps", "clotho", "msrvtt_caption", "msvd_caption", "cap3d", "vatex")
RANKED_CLASSES, SIDES = ("esc50", "modelnet40"), ("discrn_av", "discrn_i3d")
SENSED = (*SENSED_CAPTIONS, *RANKED_CLASSES, *SIDES, "clotho_aqa", "cap3d_qa", "music_avqa")
"""X-InstructBLIP's."""
ONLY_SENSED = {"audiocaps_qa", "wavcaps", "audioset", "webvid"}
ONLY_TRAINED = {
    "capfilt",
    "llava_detail",
    "llava_conv",
    "llava_reason",
    *LLAVA,
    *pretraining.RELEASES,
    "vg_qa",
    *TEXTS,
    *ONLY_SENSED,
}
JUDGED = {
    "coco_caption": ("test", "cider", "generate"),
    "textcaps": ("val_images", "cider", "generate"),
    "vqav2": ("val", "vqa_accuracy", "generate"),
    "okvqa": ("val", "vqa_accuracy", "generate"),
    "aokvqa": ("val", "aokvqa_da", "generate"),
    "ocrvqa": ("test", "exact_match", "generate"),
    "vqav2_qg": ("val", "rouge_l", "generate"),
    "okvqa_qg": ("val", "rouge_l", "generate"),
    "aokvqa_qg": ("val", "rouge_l", "generate"),
    "nocaps": ("val", "cider", "generate"),
    "flickr30k": ("test", "cider", "generate"),
    "gqa": ("testdev_balanced", "gqa", "generate"),
    "vsr": ("zeroshot/test", "yes_no", "generate"),
    "iconqa": ("choose_txt/test", "accuracy", "rank"),
    "textvqa": ("val", "vqa_accuracy_evalai", "generate"),
    "visdial": ("val", "mrr", "rank"),
    "hateful_memes": ("dev_seen+dev_unseen", "auc", "binary"),
    "vizwiz": ("val", "vqa_accuracy_evalai", "generate"),
    "scienceqa": ("test_img", "accuracy", "rank"),
    "msvd_qa": ("test", "top1", "vocabulary"),
    "msrvtt_qa": ("test", "top1", "vocabulary"),
    "ivqa": ("test", "ivqa", "generate"),
    **dict.fromkeys(REASONED, ("test", "scienceqa", "generate")),
    "coco_retrieval": ("test", "recall", "retrieval"),
    "flickr30k_retrieval": ("test", "recall", "retrieval"),
    "nlvr2": ("test1", "nlvr2", "classify"),
    "snli_ve": ("test", "accuracy", "classify"),
    **dict.fromkeys(BINDING[:2], ("shots_5_ways_2", "top1", "generate")),
    **dict.fromkeys(BINDING[2:], ("shots_5_ways_2", "exact_match", "generate")),
    **dict.fromkeys(SENSED_CAPTIONS[:4], ("test", "cider", "generate")),
    **dict.fromkeys(SENSED_CAPTIONS[4:], ("val", "cider", "generate")),
    **dict.fromkeys(RANKED_CLASSES, ("test", "accuracy", "rank")),
    **dict.fromkeys(SIDES, ("val+val_swapped", "which_side", "generate")),
    "clotho_aqa": ("test", "three_votes", "generate"),
    "cap3d_qa": ("val", "exact_match", "generate"),
    "music_avqa": ("test", "exact_match", "generate"),
}
"""Set -> split, metric and mode."""
WORDS = {
    "cider": "CIDEr",
    "vqa_accuracy": "VQA accuracy",
    "vqa_accuracy_evalai": "VQA accuracy (EvalAI)",
    "aokvqa_da": "direct answer",
    "exact_match": "exact match",
    "rouge_l": "ROUGE-L",
    "gqa": "exact, normalised",
    "yes_no": "accuracy",
    "accuracy": "accuracy, ranked",
    "mrr": "MRR, ranked",
    "auc": "AUC",
    "top1": "top-1 of a vocabulary",
    "ivqa": "iVQA accuracy",
    "scienceqa": "the letter written",
    "recall": "recall at 1, 5, 10, both ways",
    "nlvr2": "accuracy, consistency",
    "three_votes": "VQA accuracy of three votes",
    "which_side": "the side named, in both orders",
}
"""Metric -> how docs/datasets.md calls it."""


OTHERS = {("accuracy", "classify"): "accuracy, classified", ("top1", "generate"): "exact match with its end"}
"""Metric and mode -> how the page calls it, where the mode matters."""


def test_every_public_set_is_judged_as_the_paper_and_the_page_say():
    assert {name: (how.split, how.metric, how.mode) for name, how in SUITE.items()} == JUDGED
    assert (
        JUDGED.keys()
        == {*instructblip.HELD_IN, *instructblip.HELD_OUT, *REASONED, *PAIRS, *BINDING, *SENSED} - ONLY_TRAINED
    )
    assert {how.metric for how in SUITE.values()} <= {*METRICS, "recall"}
    assert {how.mode for how in SUITE.values()} == set(MODES)
    page = (toys.ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| `")
    ]
    told = {name.strip("` "): cells[-2:] for cells in lines for name in cells[0].split(",")}
    assert told == {
        **{name: [split, OTHERS.get((metric, mode), WORDS[metric])] for name, (split, metric, mode) in JUDGED.items()},
        **{key: ["", ""] for key in ONLY_TRAINED},
    }


ONE_BEAM, THREE_BEAMS = {"vsr", "ocrvqa"}, {"nocaps"}
CAPTIONS = {"coco_caption", "textcaps", "nocaps", "flickr30k", *SENSED_CAPTIONS}
ASKING = {"vqav2_qg", "okvqa_qg", "aokvqa_qg"}


ANSWERED = [name for name, (_, _, mode) in JUDGED.items() if mode == "generate" and name not in (*REASONED, *BINDING)]


@pytest.mark.parametrize("name", ANSWERED)
def test_how_a_set_is_answered(name):
    """Beams of the paper's appendix, the original code's repetition penalty, short answers of 1 to 10 tokens."""
    how = SUITE[name]
    assert how.repetition_penalty == (1.15 if name in SENSED_CAPTIONS else 1.5)
    assert how.num_beams == (1 if name in ONE_BEAM else 3 if name in THREE_BEAMS else 5)
    lengths = (10, 80) if name in CAPTIONS else (1, 30) if name in ASKING else (1, 80 if name == "cap3d_qa" else 10)
    assert (how.min_new_tokens, how.max_new_tokens) == lengths
    assert how.length_penalty == (1.0 if name in CAPTIONS | ASKING else None)
    assert how.prompt is None


def test_reasons_are_written_greedily_and_whole():
    for name, longest in zip(REASONED, (16, 1024, 1024), strict=True):
        assert SUITE[name] == EvalSpec("test", "scienceqa", "generate", num_beams=1, max_new_tokens=longest)


def test_what_ranks_counts_the_end_token():
    """But for X-InstructBLIP's classes, whose names stand in a sentence."""
    assert {name for name, how in SUITE.items() if not how.include_end} == {*RANKED_CLASSES}
    assert [SUITE[name].candidate for name in RANKED_CLASSES] == ["an audio of {}", "a 3d model of a {}"]


APPENDIX = {
    "gqa": "Question: {question} Short answer:",
    "vizwiz": "Question: {question} Short answer:",
    "ivqa": "Question: {question} Short answer:",
    "msvd_qa": "Question: {question} Short answer:",
    "msrvtt_qa": "Question: {question} Short answer:",
    "nocaps": "A short image description:",
    "flickr30k": "A short image description:",
    "textvqa": "OCR tokens: {ocr}. Question: {question} Short answer:",
    "iconqa": "Question: {question} Options: {options}. Short answer:",
    "scienceqa": "Context: {context} Question: {question} Options: {options}. Answer:",
    "hateful_memes": 'This is an image with: "{text}" written on it. Is it hateful? Answer:',
    "vsr": 'Based on the image, is this statement true or false? "{statement}" Answer:',
    "visdial": "Dialog history: {history}\n Question: {question} Short answer:",
}
"""Prompts of the paper's appendix, for what it holds out."""
LIKE_THEM = {
    "coco_caption": "A short image description:",
    "textcaps": "OCR tokens: {ocr}. A short image description:",
    "vqav2": "Question: {question} Short answer:",
    "okvqa": "Question: {question} Short answer:",
    "aokvqa": "Question: {question} Short answer:",
    "ocrvqa": "OCR tokens: {ocr}. Question: {question} Short answer:",
    "vqav2_qg": "Given the image, generate a question whose answer is: {answer}. Question:",
    "okvqa_qg": "Given the image, generate a question whose answer is: {answer}. Question:",
    "aokvqa_qg": "Given the image, generate a question whose answer is: {answer}. Question:",
    **dict.fromkeys(("coco_retrieval", "flickr30k_retrieval"), "A short image description:"),
    **dict.fromkeys(("nlvr2", "snli_ve"), "{sentence}"),
    **dict.fromkeys(BINDING, "{question}"),
    **dict.fromkeys(REASONED, "Question: {question}\nContext: {context}\nOptions: {options}\nAnswer:"),
}


OF_SENSES = {
    **dict.fromkeys(("audiocaps", "clotho", "msrvtt_caption", "msvd_caption", "vatex"), "a short description"),
    "clotho_aqa": "Question: {question} Answer:",
    "music_avqa": "Question: {question} Answer:",
    "esc50": "describe the audio",
    "modelnet40": "describe the 3d model",
    "cap3d": "describe the 3d model",
    "cap3d_qa": "based on the given input respond to {question}",
    **dict.fromkeys(
        SIDES,
        "You are given two inputs. Select exactly one of the two by referece to its relative position (first or "
        "second, left or right) that best answers the question. question: {question} answer:",
    ),
}
"""Those of X-InstructBLIP's code."""


def test_how_many_templates_each_sense_has():
    """As many as its authors have, all distinct and in lower case."""
    counts = {"coco_caption": 50, "vqav2": 47, "msrvtt_caption": 13, "msrvtt_qa": 21}
    counts |= {"audiocaps": 24, "audiocaps_qa": 26, "audioset": 13, "cap3d": 45, "cap3d_qa": 52, "modelnet40": 13}
    for name, count in counts.items():
        own = sense_templates()[name]
        assert len(set(own)) == len(own) == count
        assert all(text == text.lower().strip() for text in own)


def test_every_set_of_its_recipe_is_known():
    for modality, run in x_instructblip.RUNS.items():
        config = x_instructblip.paper({modality: {}}, modality)
        assert set(run.sets) <= set(RELEASES)
        for name in (*config.evaluation.held_in, *config.evaluation.held_out):
            eval_spec(name, "test", 10, config.evaluation.settings.to_dict().get(name, {}))
    assert {name for own in x_instructblip_judged.PAPER.values() for name in own} <= set(SUITE)


def test_what_each_set_is_asked_with():
    assert APPENDIX.keys() == set(instructblip.HELD_OUT)
    assert PROMPTS == {**APPENDIX, **LIKE_THEM, **OF_SENSES}


TABLE_1 = """
NoCaps  Flickr30K GQA  VSR  IconQA TextVQA VisDial HM   VizWiz SciQA MSVD MSRVTT iVQA | model
104.5   76.1      44.0 60.5 45.5   43.1    45.7    53.0 29.8   54.9  33.7 16.2   40.4 | blip2-flan-t5-xl
 98.4   73.7      44.6 68.2 45.4   44.1    46.9    52.0 29.4   64.5  34.4 17.4   45.8 | blip2-flan-t5-xxl
119.9   84.5      48.4 64.8 50.0   46.6    46.6    56.6 32.7   70.4  43.4 25.0   53.1 | instructblip-flan-t5-xl
120.0   83.5      47.9 65.6 51.2   46.6    48.5    54.1 30.9   70.6  44.3 25.6   53.8 | instructblip-flan-t5-xxl
123.1   82.4      49.2 54.3 43.1   50.1    45.2    59.6 34.5   60.5  41.8 22.1   52.2 | instructblip-vicuna-7b
121.9   82.8      49.5 52.1 44.8   50.7    45.4    57.5 33.4   63.1  41.2 24.8   51.0 | instructblip-vicuna-13b
"""
COLUMNS = {
    "NoCaps": "nocaps",
    "Flickr30K": "flickr30k",
    "GQA": "gqa",
    "VSR": "vsr",
    "IconQA": "iconqa",
    "TextVQA": "textvqa",
    "VisDial": "visdial",
    "HM": "hateful_memes",
    "VizWiz": "vizwiz",
    "SciQA": "scienceqa",
    "MSVD": "msvd_qa",
    "MSRVTT": "msrvtt_qa",
    "iVQA": "ivqa",
}


def test_the_papers_table_1():
    """Written a second time, with its columns' names."""
    head, *rows = [line.partition("|") for line in TABLE_1.strip().splitlines()]
    names = [COLUMNS[column] for column in head[0].split()]
    assert {
        model.strip(): dict(zip(names, map(float, numbers.split()), strict=True)) for numbers, _, model in rows
    } == instructblip.PAPER


def test_what_is_said_of_a_set_stands_above_its_own():
    assert eval_spec("gqa", "test", 7, {}) == SUITE["gqa"]
    changed = eval_spec("gqa", "test", 7, {"split": "val_balanced", "num_beams": 1, "length_penalty": 0})
    assert changed == dataclasses.replace(SUITE["gqa"], split="val_balanced", num_beams=1, length_penalty=0)
    assert eval_spec("own", "validation", 7, {}) == EvalSpec("validation", max_new_tokens=7)
    assert evaluation_templates("gqa") == {"gqa": ("Question: {question} Short answer:",)}
    assert evaluation_templates("gqa", "{question}") == {"gqa": ("{question}",)}
    assert evaluation_templates("own") == BY_TASK


def test_the_former_name_of_the_mode_is_read_with_a_warning():
    with pytest.warns(FutureWarning, match=r"settings\.own\.way is now called mode"):
        assert eval_spec("own", "test", 7, {"way": "rank"}) == EvalSpec(mode="rank", max_new_tokens=7)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"beams": 3}, ["settings.own", "'beams'", "num_beams"]),
        ({"num_beams": "3"}, ["settings.own.num_beams", "'3'", "int"]),
        ({"metric": "acc"}, ["settings.own.metric", "'acc'", "vqa_accuracy"]),
        ({"mode": "guess"}, ["settings.own.mode", "'guess'", "vocabulary"]),
        ({"mode": "retrieval", "rerank": -1}, ["settings.own.rerank", "-1", "0"]),
    ],
)
def test_what_cannot_be_is_named(changes, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        eval_spec("own", "test", 7, changes)
    for word in words:
        assert word in str(caught.value)


ROWS = {
    "coco_caption": SetResult("held_in", "cider", 1.2, 50, None, (1.1, 1.3)),
    "nocaps": SetResult("held_out", "cider", 1.0, 45, None, (0.9, 1.05), 1.199),
    "vizwiz": SetResult("held_out", "vqa_accuracy_evalai", None, 80),
}


def test_intervals_and_the_papers_numbers_stand_beside_ours(tmp_path):
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown(ROWS).splitlines()]
    assert lines[0] == ["", "set", "metric", "records", "score", "95 %", "paper"]
    assert lines[2][3:] == ["50", "120.0", "110.0 to 130.0", ""]
    assert lines[4][3:] == ["45", "100.0", "90.0 to 105.0", "119.9"]
    assert lines[5][3:] == ["80", "", "", ""]
    plot.draw(ROWS, tmp_path / "scores.png")
    with Image.open(tmp_path / "scores.png") as image:
        assert image.width > 400
        assert len(image.convert("RGB").getcolors(1 << 24)) > 10


def test_evaluation_servers_get_their_own_formats():
    lines = [{"question_id": 7, "image_id": "a.jpg", "prediction": "a cup"}, {"question_id": 8, "image_id": "b.jpg"}]
    lines[1]["prediction"] = "unanswerable"
    assert submission.FORMATS["vqav2"](lines) == [
        {"question_id": 7, "answer": "a cup"},
        {"question_id": 8, "answer": "unanswerable"},
    ]
    assert submission.FORMATS["textvqa"](lines)[0] == {"question_id": 7, "answer": "a cup"}
    assert submission.FORMATS["vizwiz"](lines)[1] == {"image": "b.jpg", "answer": "unanswerable"}
    assert submission.FORMATS["nocaps"](lines)[0] == {"image_id": "a.jpg", "caption": "a cup"}
