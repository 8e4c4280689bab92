"""Runs `instructblip serve`."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from tqdm import tqdm

from instructblip_jax import embedded
from instructblip_jax.command_lines.serve import token
from instructblip_jax.files import read_json, write_json
from instructblip_jax.model import Model
from instructblip_jax.processors.base import BaseProcessor
from instructblip_jax.run import trained
from instructblip_jax.run.workdir import Workdir
from instructblip_jax.serving import examples, server
from instructblip_jax.serving.app import Face
from instructblip_jax.serving.engine import Engine
from instructblip_jax.serving.limits import Limits
from instructblip_jax.serving.metrics import Metrics

FLAGS = flags.FLAGS
LENGTHS = (256, 128, 64, 32, 16)
"""Lengths of the longest prompt and answer in tokens, tried in this order."""
TITLES = {
    "instructblip": "InstructBLIP",
    "instructblipvideo": "InstructBLIP",
    "blip-2": "BLIP-2",
    "blip": "BLIP",
    "albef": "ALBEF",
    "llava": "LLaVA",
    "flamingo": "Flamingo",
    "idefics": "Idefics",
    "kosmos-1": "KOSMOS-1",
    "kosmos-2": "Kosmos-2",
    "frozen": "Frozen",
    "x-instructblip": "X-InstructBLIP",
}
"""model_type -> its name on the page."""
CUT = 143
"""Exit status if SIGTERM cut off answers."""


def run(args: Sequence[str]) -> None:
    """Load, compile, and serve until a signal arrives."""
    place = server.bound(FLAGS.host, FLAGS.port)  # before the model, so that a port in use is reported at once
    known = FLAGS.model in embedded.NAMES and not Path(FLAGS.model).exists()
    model, processor = trained.load(FLAGS.model, FLAGS.workdir, dtype=FLAGS.dtype, int8=FLAGS.int8)
    metrics = Metrics()
    engine = _engine(model, processor, metrics)
    if not model.has("prefill") and engine.comparer is None:
        raise ValueError(f"{model.directory}: this model classifies; `serve` needs one that writes or compares")
    here = FLAGS.model is None or (not known and Path(FLAGS.model).exists())
    name = model.directory.resolve().name if here else FLAGS.model
    sets = _digits_sets(known)
    system = read_json(model.directory / "config.json")["model_type"]
    face = Face(
        engine,
        name,
        engine.limits,
        system=system,
        title=TITLES[system],
        token=token(),
        instructions=examples.instructions(sets),
        example=None if sets is None else examples.picture(),
    )
    with tqdm(engine.warm_up(), desc="compiling", unit=" programs", disable=None) as steps:
        for what in steps:
            steps.set_postfix_str(what)
    metrics.warm()
    host, port = place.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    longest = f"texts of {engine.limits.max_prompt} tokens, answers of {engine.limits.max_tokens}"
    print(f"{name}: {address} (the page), {address}/v1 (OpenAI's API); {longest}")
    print(_example(address, name, model.has("prefill")), flush=True)
    if FLAGS.json:
        write_json(FLAGS.json, {"address": address, "model": name, **dataclasses.asdict(engine.limits)})
    if not server.run(face, place):
        print("instructblip serve: ended before all answers were written", file=sys.stderr)
        sys.exit(CUT)


def _engine(model: Model, processor: BaseProcessor, metrics: Metrics) -> Engine:
    """The engine; without flags, with the longest prompts and answers that fit the model's positions."""
    for length in LENGTHS:
        bounds = Limits(
            max_tokens=FLAGS.max_tokens or length,
            max_prompt=FLAGS.max_prompt or length,
            rows=FLAGS.rows,
            queue=FLAGS.queue,
            pictures=FLAGS.pictures,
        )
        engine = Engine(model, processor, metrics, bounds)
        try:
            engine.prepare()
            break
        except ValueError:
            if length == LENGTHS[-1] or (FLAGS.max_tokens and FLAGS.max_prompt):
                raise
    return engine


def _digits_sets(known: bool) -> tuple[str, ...] | None:
    """The digits world's sets that a run trained on; empty for an embedded model without a run, and None for any other
    model."""
    sets = Workdir(FLAGS.workdir).saved_config().mixture.all_sets if FLAGS.workdir else ()
    return sets if examples.is_digits(sets) else () if known else None


def _example(address: str, name: str, writes: bool) -> str:
    """A request as one shell line, for a model that generates text, or for one that only compares."""
    authorization = ' -H "Authorization: Bearer $TOKEN"' if token() else ""
    curl = f"curl {address}/v1/{{}}{authorization} -H 'Content-Type: application/json' -d '{{}}'"
    if not writes:
        return curl.format("embeddings", f'{{"model": "{name}", "input": ["a text", "another text"]}}')
    parts = (
        '[{"type": "text", "text": "describe the picture"}, '
        '{"type": "image_url", "image_url": {"url": "data:image/png;base64,\'$(base64 -w0 F.png)\'"}}]'
    )
    body = f'{{"model": "{name}", "messages": [{{"role": "user", "content": {parts}}}]}}'
    return curl.format("chat/completions", body)
