"""Runs `instructblip assemble`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from instructblip_jax import families, files, hub
from instructblip_jax.convert import ingredients
from instructblip_jax.convert.new_directory import check_free
from instructblip_jax.convert.write import as_dict, as_table

FLAGS = flags.FLAGS
CHOICES = ("projector", "task", "queries", "every")
"""Flags that only some systems have."""


def run(args: Sequence[str]) -> None:
    """Write the directory."""
    (system,) = args
    check_free(Path(FLAGS.out))  # before any download
    given = {part: name for part in ingredients.PARTS if (name := FLAGS[part].value)}
    parts = {part: Path(name) if Path(name).is_file() else hub.resolve(name) for part, name in given.items()}
    limit = int(FLAGS.max_shard_gb * 1e9)
    choices: dict[str, Any] = {name: FLAGS[name].value for name in CHOICES if FLAGS[name].value}
    written = families.assemble(FLAGS.out, system, parts, seed=FLAGS.seed, max_shard_bytes=limit, **choices)
    print(as_table(written))
    print(f"{FLAGS.out}: {system}, assembled from {', '.join(f'{part} {path}' for part, path in parts.items())}")
    if FLAGS.json:
        report = {"out": FLAGS.out, "system": system, "parts": {part: str(path) for part, path in parts.items()}}
        files.write_json(FLAGS.json, report | as_dict(written))
