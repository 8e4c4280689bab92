"""The configured suite: instructblip evaluate --config C --workdir W [--checkpoint STEP] [--split test] [--json FILE]

One row a set: its metric with the picture, and beside it with the picture blanked. Writes W/evaluation.md,
W/evaluation.json and W/predictions/SET.jsonl.
"""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags
from etils import epath
from tqdm import tqdm

from instructblip_jax import distributed, run_flags
from instructblip_jax import mesh as meshes
from instructblip_jax.checkpoint import fingerprint
from instructblip_jax.config import RunConfig, resolve
from instructblip_jax.data.builder import open_set
from instructblip_jax.data.digits.prepare import prepare_missing
from instructblip_jax.data.digits.templates import TEMPLATES
from instructblip_jax.data.loader import evaluation_batches
from instructblip_jax.evals.metrics import METRIC_OF, METRICS
from instructblip_jax.evals.pairs import Prediction, reference_of
from instructblip_jax.evals.predict import predict
from instructblip_jax.evals.table import Row, as_dict, markdown
from instructblip_jax.generate.text import generate_ids
from instructblip_jax.model import InstructBlip
from instructblip_jax.processors.processor import Processor
from instructblip_jax.workdir import Workdir

FLAGS = flags.FLAGS


def define_flags(argv: Sequence[str]) -> None:
    """This command's flags."""
    run_flags.define(argv)
    flags.DEFINE_integer("checkpoint", None, "Step of the checkpoint to judge; the newest if not given.")
    flags.DEFINE_enum("split", "test", ["validation", "test"], "Which split of every set.")
    flags.DEFINE_bool("int8", False, "Judge with the language model's matrices as int8: half the memory of bfloat16.")
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
    model, step = load(config, workdir, FLAGS.checkpoint)
    processor = Processor.from_pretrained(model.directory)
    suite = config.evaluation
    splits = dict.fromkeys(suite.held_in, "held_in") | dict.fromkeys(suite.held_out, "held_out")
    if not splits:
        raise ValueError("config.evaluation names no set: give held_in, held_out or both")
    prepare_missing(config.data.directory, tuple(splits))
    own = meshes.local_rows(model.mesh, suite.batch_size)

    def answer(batch: Mapping[str, np.ndarray]) -> np.ndarray:
        whole: Any = meshes.put_rows(model.mesh, batch, own, suite.batch_size)
        return generate_ids(model, whole, max_new_tokens=suite.max_new_tokens)

    rows = {}
    writer = distributed.is_writer()
    for name, split in tqdm(splits.items(), desc="evaluate", unit="set", dynamic_ncols=True, disable=not writer):
        batches = evaluation_batches(
            open_set(config.data.directory, name, FLAGS.split),
            processor,
            TEMPLATES,
            batch_size=suite.batch_size,
            instruction_lengths=config.data.instruction_lengths,
            blank_image=config.data.blank_image,
            own=own,
        )
        answered = predict(answer, processor, batches)
        metric = METRIC_OF.get(name, "exact_match")
        lines, with_picture, without = [], [], []
        for record, seen, unseen in answered:
            with_picture.append((Prediction(seen), reference_of(record)))
            without.append((Prediction(unseen), reference_of(record)))
            lines.append(
                json.dumps({"uid": record.uid, "prediction": seen, "blind": unseen, "answers": list(record.answers)})
            )
        judged, blind = METRICS[metric](with_picture), METRICS[metric](without)
        if judged.value is None or blind.value is None:
            raise ValueError(f"{name}: {metric} is not defined: {judged.reason or blind.reason}")
        if writer:  # every host has every answer
            workdir.write_text(f"predictions/{name}.jsonl", "\n".join(lines) + "\n")
        rows[name] = Row(split, metric, judged.value, judged.count, blind.value)
    if not writer:
        return
    seconds = time.time() - begun + (workdir.read_json("train.json") or {"seconds": 0.0})["seconds"]
    table = markdown(rows)
    result = {**as_dict(rows), "step": step, "data_split": FLAGS.split, "seconds": round(seconds, 1)}
    written = [workdir.write_json("evaluation.json", result), workdir.write_text("evaluation.md", table)]
    if FLAGS.json:
        epath.Path(FLAGS.json).write_text(json.dumps(result, indent=2) + "\n")
    print(f"\n{table}\nstep {step}; {result['seconds']} s with its training")
    print("\n".join(map(str, written)))
