"""Runs `instructblip evaluate`: answers and scores the suite."""

import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from etils import epath
from tqdm import tqdm

from instructblip_jax import distributed, files
from instructblip_jax import mesh as meshes
from instructblip_jax.data.evaluation import evaluation_batches
from instructblip_jax.data.prepared import Joined, Source
from instructblip_jax.data.templates import instruction
from instructblip_jax.datasets.digits.prepare import prepare_missing
from instructblip_jax.evals import gallery, plot, submission, table
from instructblip_jax.evals.few_shot import result
from instructblip_jax.evals.few_shot.answers import Asking, Task
from instructblip_jax.evals.few_shot.kept import keep
from instructblip_jax.evals.few_shot.opening import open_task
from instructblip_jax.evals.judge import judged, line
from instructblip_jax.evals.open_set import OpenSet, open_set
from instructblip_jax.evals.predict import answered
from instructblip_jax.evals.retrieval import retrieve
from instructblip_jax.evals.store import PredictionStore
from instructblip_jax.evals.suite import RETRIEVAL
from instructblip_jax.evals.table import SetResult
from instructblip_jax.model import Model
from instructblip_jax.processor import Processor
from instructblip_jax.processors.base import BaseProcessor
from instructblip_jax.recipes import blip_family, instructblip, x_instructblip_judged
from instructblip_jax.recipes.blip_family import RECALLED
from instructblip_jax.run.check import with_system
from instructblip_jax.run.checkpoint import fingerprint, weights_sha256
from instructblip_jax.run.config import EvaluationConfig, RunConfig, resolve
from instructblip_jax.run.workdir import Workdir

FLAGS = flags.FLAGS
PART = 8
"""Number of batches after which predictions are saved."""
QUESTIONS = 2
"""The version of `data/questions.py`; other versions may have asked different questions."""


def run(args: Sequence[str]) -> None:
    """Evaluate, print the table, and write the files. Their ``seconds`` include training."""
    begun = time.time()
    config = resolve(FLAGS.config)
    distributed.start()
    workdir = Workdir(FLAGS.workdir)
    workdir.saved_config()
    workdir.check(config)
    config, directory = with_system(config)
    workdir.check(config)  # again, now that the trainable set is resolved
    suite = config.evaluation
    halves = halves_of(suite)
    prepare_missing(config.data.directory, tuple(halves))
    sets = {}
    for name in halves:  # open all sets before any is answered
        changes = suite.settings.get(name, {})
        sets[name] = open_set(
            config.data.directory, name, changes, split=FLAGS.split, max_new_tokens=suite.max_new_tokens
        )
    processor = Processor.from_pretrained(directory, **config.system_options()).holding(config.data.pictures)
    tasks = {
        name: open_task(config.data.directory, opened, processor, suite, suite.settings.get(name, {}))
        for name, opened in sets.items()
        if suite.shots and opened.spec.mode != RETRIEVAL
    }
    model, step = load(dataclasses.replace(config, model=str(directory)), workdir, FLAGS.checkpoint)
    weights = weights_sha256(model.train)

    results: dict[str, Any] = {}
    shown: dict[str, list[gallery.Row]] = {}
    papers = instructblip.PAPER | blip_family.PAPER | x_instructblip_judged.PAPER
    paper = papers.get(Path(config.model).name, {})
    writer = distributed.is_writer()
    log = writer and not sys.stderr.isatty()  # no progress bar there
    quiet = None if writer else True  # None: shown only on a terminal
    for name, half in tqdm(halves.items(), desc="evaluate", unit="set", dynamic_ncols=True, disable=quiet):
        if log:
            print(f"instructblip evaluate: {name}, {len(sets[name].asked)} questions", file=sys.stderr, flush=True)
        if name in tasks:
            found = with_examples(config, model, processor, tasks[name], workdir, weights)
            if writer:
                answered_by = {shots: list(map(json.loads, lines)) for shots, lines in found.items()}
                spec, how = tasks[name].opened.spec, dataclasses.asdict(suite.few_shot)
                results[name] = result.judged(half, spec, answered_by, sets[name].notes, how)
                shown[name] = gallery.keep(workdir, sets[name].asked, answered_by[max(answered_by)])
            continue
        key = key_of(config, sets[name], weights)
        lines = predict(config, model, processor, sets[name], PredictionStore(workdir, name, key, again=FLAGS.again))
        if writer:
            answers = list(map(json.loads, lines))
            results[name] = judged(half, sets[name].spec, answers, paper.get(name), sets[name].notes)
            if sets[name].spec.mode != RETRIEVAL:
                shown[name] = gallery.keep(workdir, sets[name].asked, answers)
            if name in submission.FORMATS:
                content = json.dumps(submission.FORMATS[name](answers)) + "\n"
                workdir.write_text(f"submissions/{name}.json", content)
    if writer:
        seconds = time.time() - begun + (workdir.read_json("train.json") or {"seconds": 0.0})["seconds"]
        workdir.write_text("predictions.html", gallery.Gallery(workdir, shown).html)
        _report(workdir, Path(config.model).name, results, {"step": step, "seconds": round(seconds, 1)})


def halves_of(suite: EvaluationConfig) -> dict[str, str]:
    """Set -> "held_in" or "held_out". Raises ValueError if there is no set, or there are settings for a set that is not
    listed."""
    halves = dict.fromkeys(suite.held_in, "held_in") | dict.fromkeys(suite.held_out, "held_out")
    if not halves:
        raise ValueError("config.evaluation names no set: give held_in, held_out or both")
    stray = sorted(set(suite.settings) - set(halves))
    if stray:
        raise ValueError(f"config.evaluation.settings names {', '.join(stray)}, in neither held_in nor held_out")
    return halves


def load(config: RunConfig, workdir: Workdir, step: int | None) -> tuple[Model, int]:
    """The model of a run with the trained parameters of ``step`` (None: the newest), and that step."""
    mesh = meshes.make_mesh(*dataclasses.astuple(config.mesh))
    options = config.model_options(remat="none", int8=config.int8 or FLAGS.int8, scan_layers=None)
    model = Model.from_pretrained(config.model, mesh, **options)
    return model, workdir.restore_into(model.train, step, fingerprint(model.directory))


def key_of(config: RunConfig, opened: OpenSet, weights: str) -> str:
    """A digest of everything that determines the predictions on a set."""
    # EvalSpec.mode used to be called "way"; hashing under that name keeps older predictions valid.
    spec = {"way" if name == "mode" else name: value for name, value in vars(opened.spec).items()}
    if opened.spec.mode != RETRIEVAL:  # keeps predictions from before this field valid
        del spec["rerank"]
    if spec["candidate"] == "{}":  # likewise
        del spec["candidate"]
    del spec["support"]
    determines = {
        "weights": weights,
        "set": opened.identity,
        "asked": QUESTIONS,
        **spec,
        "int8": config.int8 or FLAGS.int8,
        "blind": config.evaluation.blind,
        "blank_image": config.data.blank_image,
        "lengths": config.data.instruction_lengths,
    }
    return hashlib.sha256(json.dumps(determines, sort_keys=True).encode()).hexdigest()


def predict(
    config: RunConfig, model: Model, processor: BaseProcessor, opened: OpenSet, store: PredictionStore
) -> list[str]:
    """All predictions on a set, as `judge.line` writes them: those in the store, and the missing ones, computed now."""
    spec, templates, suite = opened.spec, opened.templates, config.evaluation
    if spec.mode == RETRIEVAL:
        if store.whole:
            return store.lines
        found = retrieve(model, processor, opened.asked, batch_size=suite.batch_size, candidates=spec.rerank)
        return store.finish(found)
    batches = evaluation_batches(
        opened.asked,
        processor,
        templates,
        batch_size=suite.batch_size,
        instruction_lengths=config.data.instruction_lengths,
        start=store.count,
        own=lambda count: meshes.local_rows(model.mesh, count),
    )
    answers = answered(
        model, processor, batches, spec, opened.vocabulary, blind=suite.blind, blank_image=config.data.blank_image
    )
    part: list[str] = []
    with tqdm(
        total=len(opened.asked),
        initial=store.count,
        desc=opened.name,
        unit="question",
        leave=False,
        disable=None if distributed.is_writer() else True,
    ) as bar:
        for number, batch in enumerate(answers):
            part += [line(record, instruction(templates, record, 0), seen, unseen) for record, seen, unseen in batch]
            bar.update(len(batch))
            if (number + 1) % PART == 0:
                store.add(part)
                part = []
        return store.finish(part)


def with_examples(
    config: RunConfig, model: Model, processor: BaseProcessor, task: Task, workdir: Workdir, weights: str
) -> dict[int, list[str]]:
    """Number of few-shot examples -> all predictions on a set with them: those in a store, and the missing ones."""
    opened, stores = task.opened, {}
    for shots in sorted(config.evaluation.shots):
        # Neither the other numbers of examples nor the batch size affect a prompt.
        examples = {
            "weights": key_of(config, opened, weights),
            "form": dataclasses.asdict(task.form),
            "shots": shots,
            "source": task.source.identity if isinstance(task.source, (Source, Joined)) else None,
            **dataclasses.asdict(config.evaluation.few_shot),
        }
        key = hashlib.sha256(json.dumps(examples, sort_keys=True).encode()).hexdigest()
        stores[shots] = PredictionStore(workdir, f"{opened.name}@{shots}", key, again=FLAGS.again)
    return keep(lambda: Asking(model, processor, task), task, stores, PART)


def _report(workdir: Workdir, model: str, results: Mapping[str, SetResult], run: Mapping[str, Any]) -> None:
    """Write and print the tables."""
    markdown = "\n".join(
        filter(
            None,
            (
                table.markdown({name: row for name, row in results.items() if not row.shots}),
                result.markdown(results),
                table.by_class(results),
                table.recalls(results, RECALLED.get(model, {})),
            ),
        )
    )
    content = {**table.as_dict(results), **run}
    written = [workdir.write_json("evaluation.json", content), workdir.write_text("evaluation.md", markdown)]
    written += [workdir.path / "predictions.html", *_draw(workdir, results)]
    if FLAGS.json:
        files.write_json(FLAGS.json, content)
    print(f"\n{markdown}")
    print("".join(f"note: {note}\n" for note in table.notes(results)))
    print(f"step {run['step']}; {run['seconds']} s with its training")
    print("\n".join(map(str, written)))


def _draw(workdir: Workdir, results: Mapping[str, SetResult]) -> list[epath.Path]:
    """Draw W/evaluation.png and, for few-shot sets, W/shots.png if W is local and matplotlib is installed (the demo
    extra). Returns the paths of the plots."""
    if "://" in str(workdir.path):
        return []
    known = {name: row for name, row in results.items() if row.value is not None}
    drawings = (
        ("evaluation.png", plot.draw, {name: row for name, row in known.items() if not row.shots}),
        ("shots.png", plot.draw_shots, {name: row for name, row in known.items() if row.shots}),
    )
    drawn = []
    for file, draw, rows in drawings:
        if rows:
            try:
                draw(rows, Path(workdir.path) / file)
            except ImportError:
                return []
            drawn.append(workdir.path / file)
    return drawn
