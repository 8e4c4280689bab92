"""`instructblip evaluate` behind its command line: the suite, answered and judged."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from etils import epath
from tqdm import tqdm

from instructblip_jax import distributed, files
from instructblip_jax import mesh as meshes
from instructblip_jax.data import prepared
from instructblip_jax.data.evaluation import evaluation_batches
from instructblip_jax.data.questions import Questions, questions
from instructblip_jax.data.templates import Templates, instruction
from instructblip_jax.datasets.digits.prepare import prepare_missing
from instructblip_jax.datasets.digits.tasks import TASKS
from instructblip_jax.datasets.prompts import evaluation_templates
from instructblip_jax.evals import plot, submission
from instructblip_jax.evals.judge import judged, line, settled
from instructblip_jax.evals.predict import answered, candidates
from instructblip_jax.evals.suite import PAPER, SUITE, EvalSpec, eval_spec
from instructblip_jax.evals.table import Row, markdown
from instructblip_jax.evals.table import as_dict as table_as_dict
from instructblip_jax.evals.table import notes as notes_of
from instructblip_jax.features.pictures import identity
from instructblip_jax.model import InstructBlip
from instructblip_jax.processors.instructblip import Processor
from instructblip_jax.run.checkpoint import fingerprint, weights_sha256
from instructblip_jax.run.config import RunConfig, resolve
from instructblip_jax.run.workdir import Workdir

FLAGS = flags.FLAGS
PART = 8
"""Batches after which what was answered is written down."""
ASKED = 2
"""The version of `data/questions.py`: another one may have asked other questions."""


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
    given = {name: suite.settings.get(name, {}) for name in splits}
    ways = {name: eval_spec(name, FLAGS.split or "test", suite.max_new_tokens, given[name]) for name in splits}
    prepare_missing(config.data.directory, tuple(splits))
    sets = {name: _opened(config, name, how, given[name]) for name, how in ways.items()}  # before any is answered
    model, step = load(config, workdir, FLAGS.checkpoint)
    processor = Processor.from_pretrained(model.directory, image_size=config.image_size)
    weights = weights_sha256(model.train)

    rows = {}
    writer = distributed.is_writer()
    paper = PAPER.get(Path(config.model).name, {})
    for name, half in tqdm(splits.items(), desc="evaluate", unit="set", dynamic_ncols=True, disable=not writer):
        how, known, asked, templates, vocabulary, notes = sets[name]
        told = {
            "weights": weights,
            "set": known,
            "asked": ASKED,
            **vars(how),
            "int8": FLAGS.int8 or config.int8,
            "blind": suite.blind,
            "blank_image": config.data.blank_image,
            "lengths": config.data.instruction_lengths,
        }
        kept = Kept(workdir, name, hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest())
        batches = evaluation_batches(
            asked,
            processor,
            templates,
            batch_size=suite.batch_size,
            instruction_lengths=config.data.instruction_lengths,
            start=kept.count,
            own=lambda count: meshes.local_rows(model.mesh, count),
        )
        blank = config.data.blank_image
        answers = answered(model, processor, batches, how, vocabulary, blind=suite.blind, blank_image=blank)
        bar = tqdm(total=len(asked), initial=kept.count, desc=name, unit="question", leave=False, disable=not writer)
        part: list[str] = []
        for number, batch in enumerate(answers):
            part += [line(record, instruction(templates, record, 0), seen, unseen) for record, seen, unseen in batch]
            bar.update(len(batch))
            if (number + 1) % PART == 0:
                kept.add(part)
                part = []
        lines = kept.finish(part)
        bar.close()
        if writer:
            said = list(map(json.loads, lines))
            rows[name] = judged(half, how, said, paper.get(name), notes)
            if name in submission.FORMATS:
                workdir.write_text(f"submissions/{name}.json", json.dumps(submission.FORMATS[name](said)) + "\n")
    if not writer:
        return
    seconds = time.time() - begun + (workdir.read_json("train.json") or {"seconds": 0.0})["seconds"]
    table = markdown(rows)
    result = {**table_as_dict(rows), "step": step, "seconds": round(seconds, 1)}
    written = [workdir.write_json("evaluation.json", result), workdir.write_text("evaluation.md", table)]
    written += _draw(workdir, rows)
    if FLAGS.json:
        files.write_json(FLAGS.json, result)
    print(f"\n{table}")
    print("".join(f"note: {note}\n" for note in notes_of(rows)))
    print(f"step {step}; {result['seconds']} s with its training")
    print("\n".join(map(str, written)))


class _Set(NamedTuple):
    """A set that is ready to be asked, and what is to be said of it."""

    how: EvalSpec
    identity: str
    asked: Questions
    templates: Templates
    vocabulary: Sequence[str]
    notes: Sequence[str]


def _opened(config: RunConfig, name: str, how: EvalSpec, changes: Mapping[str, Any]) -> _Set:
    """Raises FileNotFoundError or ValueError for a set that cannot be judged."""
    directory, notes = config.data.directory, []
    if name not in SUITE and FLAGS.split is None and "split" not in changes and prepared.is_prepared(directory, name):
        there = prepared.sizes(directory, name)
        split = next((split for split in ("test", "validation", "val") if split in there), None)
        if split is None:
            raise ValueError(
                f"{prepared.directory_of(directory, name)}: has no split to be judged by, only {', '.join(there)}; "
                "`instructblip prepare` with --validation 0.1 keeps one from training (over a set that is there with "
                f"--overwrite), or config.evaluation.settings.{name}.split names one"
            )
        if split != "test":
            notes.append(f"split {split}: it has no split test")
        how = dataclasses.replace(how, split=split)
    source = prepared.open_set(directory, name, how.split)
    templates = evaluation_templates(name, how.prompt)
    asked = questions(source, templates, known=name in SUITE or name in TASKS)
    how, more = settled(how, asked, changes)
    vocabulary = prepared.vocabulary(directory, name) if how.mode == "vocabulary" else ()
    if how.mode != "generate":
        candidates(asked[0], how.mode, vocabulary)
    return _Set(how, identity(source), asked, templates, vocabulary, [*notes, *more])


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


def _draw(workdir: Workdir, rows: Mapping[str, Row]) -> list[epath.Path]:
    """W/evaluation.png, where W is local and matplotlib installed (it comes with the demo extra)."""
    if "://" in str(workdir.path) or not any(row.value is not None for row in rows.values()):
        return []
    try:
        plot.draw(rows, Path(workdir.path) / "evaluation.png")
    except ImportError:
        return []
    return [workdir.path / "evaluation.png"]
