"""All sets through the whole: prepared from official layouts, trained on as one mixture, judged as one suite."""

import io
import json
import shutil

import av
import numpy as np
import pytest
import toys
from fixtures import ROOTS, build
from PIL import Image

from instructblip_jax.data import prepared
from instructblip_jax.datasets.prepare import shards
from instructblip_jax.datasets.prepare.write import write
from instructblip_jax.datasets.readers.releases import RELEASES
from instructblip_jax.evals.suite import SUITE
from instructblip_jax.recipes.instructblip import HELD_IN, HELD_OUT, JUDGED

STEPS = 6
SPLITS = {"gqa": "train_balanced", "vsr": "zeroshot/train", "iconqa": "choose_txt/train", "scienceqa": "train_img"}
"""Training splits that are not called "train"; NoCaps has none, and lends its val."""
CONFIG = """
from instructblip_jax.recipes.instructblip import paper

def get_config():
    config = paper("{model}", 8, {{"": {{}}}}, "")
    config.steps, config.log_every, config.checkpoint_every, config.dtype = {steps}, 1, 100, "float32"
    config.log_examples = True
    config.mixture.sets, config.mixture.exponent, config.mixture.weights = {sets}, 0.0, {{"okvqa": 25.0}}
    config.mixture.caps = {{"capfilt": 3}}
    config.data.directory, config.data.shapes, config.data.window = "{out}", 1, 4
    config.data.instruction_lengths, config.data.response_lengths = (512,), (256,)
    config.evaluation.batch_size = 8
    config.evaluation.settings = {settings}
    return config
"""


def picture(rng: np.random.Generator, kind: str, size: tuple[int, int] = (12, 16)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


HEARD = {"vatex", "music_avqa", "discrn_av"}
"""Sets whose films are heard too."""


def film(path, rng: np.random.Generator) -> None:
    with av.open(str(path), "w") as out:
        track = out.add_stream("aac", rate=16000, layout="mono") if HEARD & {*path.parts} else None
        stream = out.add_stream("vp8" if path.suffix == ".webm" else "mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for grey in rng.integers(0, 255, 8):
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), grey, np.uint8), "rgb24")):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
        if track is not None:
            tone = np.sin(np.arange(4096) * 0.2).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            frame.sample_rate = 16000
            for packet in (*track.encode(frame), *track.encode(None)):
                out.mux(packet)


@pytest.fixture(scope="module")
def all_sets(tmp_path_factory):
    """The directory of all sets, and the reports."""
    world, out = tmp_path_factory.mktemp("world"), tmp_path_factory.mktemp("prepared")
    counts, rng = build(world, 0), np.random.default_rng(0)
    kinds = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".gif": "GIF"}
    for path in sorted(world.rglob("*.*")):
        if path.suffix in kinds:
            web = {"mmc4", "obelics"} & {*path.parts}  # whose small pictures are left out
            path.write_bytes(picture(rng, kinds[path.suffix], (72, 72) if web else (12, 16)))
        elif path.suffix in (".mp4", ".avi", ".webm"):
            film(path, rng)
    reports = {}
    for name, release in RELEASES.items():
        source = world / ROOTS.get(name, name)
        vocabulary = release.vocabulary
        options = shards.Options(vocabulary=(lambda s=source, v=vocabulary: v(s)) if vocabulary else None)
        reports[name] = shards.write(out, name, release.splits(source, ()), options, workers=1)
    return out, counts, reports


def test_every_record_is_written_or_its_picture_is_missing(all_sets):
    _, counts, reports = all_sets
    assert reports.keys() == RELEASES.keys()
    lost = 0
    for name, report in reports.items():
        for split, told in report.splits.items():
            missing = told.reasons.get("missing picture", 0) + told.reasons.get("missing video", 0)
            assert told.written + missing == counts[name][split], (name, split, told.reasons)
            lost += missing
    assert lost > 0  # of CapFilt and OCR-VQA


def test_videos_have_frames_and_all_else_a_picture(all_sets):
    out, _, reports = all_sets
    for name, report in reports.items():
        for split, told in report.splits.items():
            if told.written:
                source = prepared.open_set(out, name, split)
                records = [source[n] for n in range(len(source))]
                numbers = [len(record.media) for record in records]
                assert numbers == [shown(record) for record in records], (name, split)
                assert [source.shown.of(n) for n in range(len(source))] == [record.kinds for record in records]
                for record in records:
                    assert {medium.kind for medium in record.media} <= kinds_of(name, split)


FILMS = ("msvd_qa", "msrvtt_qa", "ivqa", "msvd_caption", "msrvtt_caption", "vatex", "webvid", "music_avqa")
SOUNDS = ("audiocaps", "audiocaps_qa", "clotho", "clotho_aqa", "esc50", "wavcaps", "audioset")
SHAPES = ("cap3d", "cap3d_qa", "modelnet40")


def kinds_of(name, split):
    if name.startswith("discrn"):
        return {"audio", "frame"} if name == "discrn_av" else {"image", "points"}
    if split.endswith("_audio") or name in SOUNDS:
        return {"audio"}
    if split.endswith("_joint") or (name == "music_avqa" and not split.endswith("_video")):
        return {"audio", "frame"}
    return {"frame"} if name in FILMS else {"points"} if name in SHAPES else {"image"}


def shown(record):
    """Pictures of a record of these sets, as their makers describe them."""
    kinds = kinds_of(record.dataset, record.split)
    if kinds != {"image"}:
        return 4 * ("frame" in kinds) + len(kinds - {"frame"})
    if record.dataset == "iconqa" and record.split.startswith("choose_img"):
        return 1 + len(record.candidates)
    if record.dataset.startswith("scienceqa") or record.dataset == "llava_v1_5_mix665k":
        return int(record.image_id is not None)  # some questions need none
    if record.task == "document":
        return sum(isinstance(part, int) for part in record.parts)
    if record.dataset in ("unnatural_instructions", "flan_v2"):
        return 0
    if record.parts:
        return len(record.parts) // 2  # a text each
    return 2 if record.dataset == "nlvr2" else 1


@pytest.fixture(scope="module")
def run(all_sets, process, tmp_path_factory):
    """The workdir of a run over all sets, trained and judged."""
    out, _, _ = all_sets
    root = tmp_path_factory.mktemp("run")
    toys.write_model(root / "model")
    sets = tuple(
        f"{name}:{SPLITS[name]}" if name in SPLITS else "nocaps:val" if name == "nocaps" else name
        for name in (*HELD_IN, *HELD_OUT)
    )
    settings = {
        name: {"num_beams": 1, "max_new_tokens": 3, "min_new_tokens": 0}
        for name in (*JUDGED, *HELD_OUT)
        if SUITE[name].mode == "generate" and name != "nocaps"
    }
    settings["nocaps"] = {"num_beams": 2, "max_new_tokens": 3, "min_new_tokens": 1}
    fields = {"model": root / "model", "steps": STEPS, "sets": sets, "out": out, "settings": settings}
    (root / "all.py").write_text(CONFIG.format(**fields))
    own = (f"--config={root / 'all.py'}", f"--workdir={root / 'run'}")
    trained = process("train", *own)
    assert trained.code == 0, trained.err
    judged = process("evaluate", *own)
    assert judged.code == 0, judged.err
    return root / "run", trained.out, judged.out, (process, own)


def test_all_sets_are_trained_on_as_one_mixture(run):
    workdir, said, _, _ = run
    for name in (*HELD_IN, *HELD_OUT):
        assert f"{name}" in said
    entries = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert len(entries) == STEPS
    assert all(np.isfinite(entry["loss"]) for entry in entries)
    assert sum(entries[-1]["samples"].values()) == 8 * STEPS
    samples = entries[-1]["samples"]
    # Of 26 sets that are drawn alike one weighs 25 times as much: 24 of 48 samples, and a standard deviation is 3.5.
    assert len(samples.keys()) == 26
    assert 12 <= samples["okvqa"] <= 36
    assert max(count for name, count in samples.items() if name != "okvqa") <= 8
    assert len([count for count in samples.values() if count]) > 8


def test_all_sets_are_judged_each_in_its_way(run, all_sets):
    workdir, _, said, _ = run
    out, _, _ = all_sets
    result = json.loads((workdir / "evaluation.json").read_text())
    assert result["sets"].keys() == {*JUDGED, *HELD_OUT}
    for name, row in result["sets"].items():
        how = SUITE[name]
        assert row["metric"] == how.metric
        assert row["split"] == ("held_in" if name in JUDGED else "held_out")
        assert row["value"] is not None
        low, high = row["interval"]
        assert low <= row["value"] <= high
        lines = [json.loads(line) for line in (workdir / "predictions" / f"{name}.jsonl").read_text().splitlines()]
        source = prepared.open_set(out, name, how.split)
        assert [line["uid"] for line in lines] == [source[n].uid for n in range(len(source))]
        if how.mode == "rank":
            assert all(len(line["scores"]) == len(line["candidates"]) for line in lines)
            assert all(line["prediction"] in line["candidates"] for line in lines)
        if how.mode == "vocabulary":
            assert {line["prediction"] for line in lines} <= set(prepared.vocabulary(out, name))
    assert "| held-out | **mean** |" in said.replace("**held-out**", "held-out")
    assert (workdir / "evaluation.png").stat().st_size > 10_000


def test_result_files_are_as_the_servers_want_them(run, all_sets):
    workdir, out = run[0], all_sets[0]
    vqa = json.loads((workdir / "submissions" / "vqav2.json").read_text())
    source = prepared.open_set(out, "vqav2", "val")
    assert [row["question_id"] for row in vqa] == [source[n].question_id for n in range(len(source))]
    assert all(isinstance(row["answer"], str) for row in vqa)
    nocaps = json.loads((workdir / "submissions" / "nocaps.json").read_text())
    assert all(isinstance(row["image_id"], int) for row in nocaps)
    assert all(
        row["image"].endswith(".jpg") for row in json.loads((workdir / "submissions" / "vizwiz.json").read_text())
    )


def test_what_was_judged_is_not_answered_again_but_for_a_set_prepared_anew(run, all_sets):
    workdir, _, _, (process, own) = run
    out = all_sets[0]
    before = {path.name: path.stat().st_mtime_ns for path in (workdir / "predictions").glob("*.jsonl")}
    first = json.loads((workdir / "evaluation.json").read_text())
    # Of one set half is gone, as if the run had been stopped there.
    lines = (workdir / "predictions" / "visdial.jsonl").read_text().splitlines(keepends=True)
    state = json.loads((workdir / "predictions" / "visdial.state.json").read_text())
    (workdir / "predictions" / "visdial.jsonl").unlink()
    (workdir / "predictions" / "visdial.part-00000.jsonl").write_text("".join(lines[:16]))
    (workdir / "predictions" / "visdial.state.json").write_text(json.dumps(state | {"parts": 1, "whole": False}))
    # Another is prepared anew: as many records, in another order.
    source = prepared.open_set(out, "textvqa", SUITE["textvqa"].split)
    records = [source[n] for n in reversed(range(len(source)))]
    shutil.rmtree(out / "textvqa")
    write(out, "textvqa", {source.split: lambda: iter(records)})
    result = process("evaluate", *own)
    assert result.code == 0, result.err
    again = json.loads((workdir / "evaluation.json").read_text())
    assert again["sets"].keys() == first["sets"].keys()
    assert all(again["sets"][name] == first["sets"][name] for name in first["sets"] if name != "textvqa")
    assert (workdir / "predictions" / "visdial.jsonl").read_text() == "".join(lines)
    after = {path.name: path.stat().st_mtime_ns for path in (workdir / "predictions").glob("*.jsonl")}
    assert {name for name in before if after[name] != before[name]} == {"visdial.jsonl", "textvqa.jsonl"}
    written = (workdir / "predictions" / "textvqa.jsonl").read_text().splitlines()
    assert [json.loads(line)["uid"] for line in written] == [record.uid for record in records]
