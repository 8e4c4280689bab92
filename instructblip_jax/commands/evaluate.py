"""The configured suite: instructblip evaluate --config C --workdir W [--checkpoint STEP] [--split test] [--json FILE]

One row a set: its metric with a 95 % interval, the paper's number where the model is the paper's, and, unless
config.evaluation.blind is off, its metric with all pictures blanked. Writes W/evaluation.md, .json and .png, what was
answered in W/predictions/SET.jsonl, and W/submissions/SET.json for the sets that have an evaluation server. Goes on
where it was stopped; --again judges anew.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from etils import epath
from tqdm import tqdm

from instructblip_jax import distributed, run_flags
from instructblip_jax import mesh as meshes
from instructblip_jax.checkpoint import fingerprint, weights_sha256
from instructblip_jax.config import RunConfig, resolve
from instructblip_jax.data import builder
from instructblip_jax.data.digits.prepare import prepare_missing
from instructblip_jax.data.evaluation import evaluation_batches
from instructblip_jax.data.pictures import identity
from instructblip_jax.data.prompts import evaluation_templates
from instructblip_jax.data.record import Record
from instructblip_jax.evals import plot, submission
from instructblip_jax.evals.metrics import METRICS, as_dict
from instructblip_jax.evals.pairs import GROUPS, Pair, Prediction, Reference, reference_of
from instructblip_jax.evals.predict import answered
from instructblip_jax.evals.suite import PAPER, Judging, judging
from instructblip_jax.evals.table import Row, markdown
from instructblip_jax.evals.table import as_dict as table_as_dict
from instructblip_jax.model import InstructBlip
from instructblip_jax.processors.processor import Processor
from instructblip_jax.workdir import Workdir

FLAGS = flags.FLAGS
PART = 8
"""Batches after which what was answered is written down."""


def define_flags(argv: Sequence[str]) -> None:
    """This command's flags."""
    run_flags.define(argv)
    flags.DEFINE_integer("checkpoint", None, "Step of the checkpoint to judge; the newest if not given.")
    flags.DEFINE_enum("split", "test", ["validation", "test"], "Which split of the sets that have no official one.")
    flags.DEFINE_bool("int8", False, "Judge with the language model's matrices as int8: half the memory of bfloat16.")
    flags.DEFINE_bool("again", False, "Judge anew what this checkpoint has answered already.")
    flags.DEFINE_string("json", None, "Also write the table here, for programs.")


def check_flags(args: Sequence[str]) -> None:
    """Raise ValueError for a wrong command line."""
    run_flags.check(args)


def load(config: RunConfig, workdir: Workdir, step: int | None) -> tuple[InstructBlip, int]:
    """The model of a run with the trained parameters of ``step`` (default: the newest) in it."""
    mesh = meshes.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    model = InstructBlip.from_pretrained(
        config.model,
        mesh,
        config.dtype,
        trainable=config.trainable,
        instruct_qformer=config.instruct_qformer,
        layout=config.layout,
        int8=FLAGS.int8 or config.int8,
        image_size=config.image_size,
    )
    return model, workdir.restore_into(model.train, step, fingerprint(model.directory))


def run(args: Sequence[str]) -> None:
    """Evaluate, print the table, write the files. ``seconds`` there are those of training and of this."""
    begun = time.time()
    config = resolve(FLAGS.config)
    distributed.start()
    workdir = Workdir(FLAGS.workdir)
    workdir.saved_config()
    workdir.check(config)
    suite = config.evaluation
    splits = dict.fromkeys(suite.held_in, "held_in") | dict.fromkeys(suite.held_out, "held_out")
    if not splits:
        raise ValueError("config.evaluation names no set: give held_in, held_out or both")
    stray = sorted(set(suite.settings) - set(splits))
    if stray:
        raise ValueError(f"config.evaluation.settings names {', '.join(stray)}, which is in neither list of sets")
    ways = {name: judging(name, FLAGS.split, suite.max_new_tokens, suite.settings.get(name, {})) for name in splits}
    prepare_missing(config.data.directory, tuple(splits))
    sources = {
        name: builder.open_set(config.data.directory, name, how.split) for name, how in ways.items()
    }  # all of them before any is answered
    model, step = load(config, workdir, FLAGS.checkpoint)
    processor = Processor.from_pretrained(model.directory, image_size=config.image_size)
    weights = weights_sha256(model.train)

    rows = {}
    writer = distributed.is_writer()
    paper = PAPER.get(Path(config.model).name, {})
    for name, split in tqdm(splits.items(), desc="evaluate", unit="set", dynamic_ncols=True, disable=not writer):
        how, source = ways[name], sources[name]
        vocabulary = builder.vocabulary(config.data.directory, name) if how.way == "vocabulary" else ()
        told = {
            "weights": weights,
            "set": identity(source),
            **vars(how),
            "int8": FLAGS.int8 or config.int8,
            "blind": suite.blind,
            "blank_image": config.data.blank_image,
            "lengths": config.data.instruction_lengths,
        }
        kept = Kept(workdir, name, hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest())
        batches = evaluation_batches(
            source,
            processor,
            evaluation_templates(name, how.prompt),
            batch_size=suite.batch_size,
            instruction_lengths=config.data.instruction_lengths,
            frames=source.frames,
            start=kept.count,
            own=lambda count: meshes.local_rows(model.mesh, count),
        )
        blank = config.data.blank_image
        answers = answered(model, processor, batches, how, vocabulary, blind=suite.blind, blank_image=blank)
        bar = tqdm(total=len(source), initial=kept.count, desc=name, unit="record", leave=False, disable=not writer)
        part: list[str] = []
        for number, batch in enumerate(answers):
            part += [_line(*one) for one in batch]
            bar.update(len(batch))
            if (number + 1) % PART == 0:
                kept.add(part)
                part = []
        lines = kept.finish(part)
        bar.close()
        if writer:
            said = list(map(json.loads, lines))
            rows[name] = _judged(split, how, said, paper.get(name))
            if name in submission.FORMATS:
                workdir.write_text(f"submissions/{name}.json", json.dumps(submission.FORMATS[name](said)) + "\n")
    if not writer:
        return
    seconds = time.time() - begun + (workdir.read_json("train.json") or {"seconds": 0.0})["seconds"]
    table = markdown(rows)
    result = {**table_as_dict(rows), "step": step, "data_split": FLAGS.split, "seconds": round(seconds, 1)}
    written = [workdir.write_json("evaluation.json", result), workdir.write_text("evaluation.md", table)]
    written += _draw(workdir, rows)
    if FLAGS.json:
        epath.Path(FLAGS.json).write_text(json.dumps(result, indent=2) + "\n")
    print(f"\n{table}\nstep {step}; {result['seconds']} s with its training")
    print("\n".join(map(str, written)))


class Kept:
    """What of a set was answered already, in W/predictions: parts while it is going on, one file when it is whole.

    ``key`` stands for everything that decides the answers; those of another key are forgotten.
    """

    def __init__(self, workdir: Workdir, name: str, key: str):
        self.workdir, self.name, self.key = workdir, name.replace("/", "_").replace(":", "_"), key
        state = workdir.read_json(f"predictions/{self.name}.state.json")
        if state is None or state["key"] != key or FLAGS.again:
            state = {"parts": 0, "whole": False}
        self.parts, self.whole = state["parts"], state["whole"]
        written = [f"{self.name}.jsonl"] if self.whole else [self._part(n) for n in range(self.parts)]
        self.lines = [line for file in written for line in self._read(file)]
        distributed.barrier("predictions")  # all have read before the first one writes

    @property
    def count(self) -> int:
        """Records answered."""
        return len(self.lines)

    def _part(self, number: int) -> str:
        return f"{self.name}.part-{number:05d}.jsonl"

    def _state(self, parts: int, whole: bool) -> None:
        state = {"key": self.key, "parts": parts, "whole": whole}
        self.workdir.write_json(f"predictions/{self.name}.state.json", state)

    def _read(self, file: str) -> list[str]:
        return (self.workdir.path / "predictions" / file).read_text().splitlines()

    def add(self, lines: list[str]) -> None:
        """Write a part down."""
        if distributed.is_writer() and lines:
            self.workdir.write_text(f"predictions/{self._part(self.parts)}", "\n".join(lines) + "\n")
            self._state(self.parts + 1, whole=False)
        self.parts += bool(lines)
        self.lines += lines

    def finish(self, lines: list[str]) -> list[str]:
        """All lines, written as one file; the parts are gone."""
        self.lines += lines
        if distributed.is_writer() and not self.whole:
            self.workdir.write_text(f"predictions/{self.name}.jsonl", "\n".join(self.lines) + "\n")
            self._state(0, whole=True)
            for path in (self.workdir.path / "predictions").glob(f"{self.name}.part-*.jsonl"):
                path.unlink()
        return self.lines


def _line(record: Record, seen: Prediction, unseen: Prediction | None) -> str:
    """A prediction beside all that it is judged by, so that the file is complete in itself."""
    fields: dict[str, Any] = {"uid": record.uid, "prediction": seen.text, "scores": seen.scores}
    if unseen is not None:
        fields |= {"blind": unseen.text, "blind_scores": unseen.scores}
    fields |= {"question_id": record.question_id, "image_id": record.image_id}
    reference = reference_of(record)
    fields |= {name: getattr(reference, name) for name in ("answers", "candidates", "label", "relevance", "difficult")}
    said = {name: value for name, value in fields.items() if value is not None and value is not False and value != ()}
    return json.dumps({**said, "answers": reference.answers, **reference.groups}, ensure_ascii=False)


def _reference(fields: Mapping[str, Any], how: Judging) -> Reference:
    return Reference(
        uid=fields["uid"],
        answers=tuple(fields["answers"]),
        candidates=() if how.way == "binary" else tuple(fields.get("candidates", ())),  # there the score is that of yes
        label=fields.get("label"),
        relevance=tuple(fields.get("relevance", ())),
        groups={name: fields[name] for name in GROUPS if name in fields},
        difficult=fields.get("difficult", False),
    )


def _judged(split: str, how: Judging, answers: Sequence[Mapping[str, Any]], paper: float | None) -> Row:
    references = [_reference(fields, how) for fields in answers]
    if not any(one.answers or one.label is not None for one in references):
        return Row(split, how.metric, None, len(answers), details={"judging": vars(how), "reason": "a blind split"})

    def pairs(text: str, scores: str) -> list[Pair]:
        said = [Prediction(fields[text], tuple(fields.get(scores, ()))) for fields in answers]
        return list(zip(said, references, strict=True))

    judged = as_dict(how.metric, pairs("prediction", "scores"))
    unseen = METRICS[how.metric](pairs("blind", "blind_scores")).value if "blind" in answers[0] else None
    details = {**judged["details"], "judging": vars(how)} | ({"reason": judged["reason"]} if "reason" in judged else {})
    target = None if paper is None else paper / 100
    return Row(split, how.metric, judged["value"], judged["count"], unseen, judged["interval"], target, details)


def _draw(workdir: Workdir, rows: Mapping[str, Row]) -> list[epath.Path]:
    """W/evaluation.png, where W is local and matplotlib installed (it comes with the demo extra)."""
    if "://" in str(workdir.path) or not any(row.value is not None for row in rows.values()):
        return []
    try:
        plot.draw(rows, Path(workdir.path) / "evaluation.png")
    except ImportError:
        return []
    return [workdir.path / "evaluation.png"]
