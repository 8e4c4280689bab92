"""Runs `instructblip convert`."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from instructblip_jax import families, files, hub
from instructblip_jax.convert.new_directory import check_free
from instructblip_jax.convert.write import as_dict, as_table

FLAGS = flags.FLAGS


def run(args: Sequence[str]) -> None:
    """Write the directory."""
    check_free(Path(FLAGS.out))
    limit = int(FLAGS.max_shard_gb * 1e9)
    skipped: list[str] = []
    if FLAGS.blip2:
        given = {"blip2": FLAGS.blip2, "bert": FLAGS.bert, "language": FLAGS.language_model}
        parts = {part: hub.resolve(name) for part, name in given.items() if name}
        written = families.assemble(
            FLAGS.out, "instructblip", parts, seed=FLAGS.seed, max_shard_bytes=limit, link=False
        )
    elif FLAGS.bert:
        file = Path(FLAGS.original)
        written, skipped = families.from_original(
            FLAGS.out, file, _read_pth(file), hub.resolve(FLAGS.bert), seed=FLAGS.seed, max_shard_bytes=limit
        )
        _report(skipped)
    elif not FLAGS.model:
        file = Path(FLAGS.original)
        written = families.rewritten(FLAGS.out, file.parent, _read_pth(file), max_shard_bytes=limit)
    else:
        file, base = Path(FLAGS.original), hub.resolve(FLAGS.model)
        written, taken, skipped = families.with_replaced(FLAGS.out, file, _read_pth(file), base, max_shard_bytes=limit)
        print(f"{FLAGS.original}: {taken} tensors taken")
        _report(skipped)
    print(as_table(written))
    if FLAGS.json:
        report = {"out": FLAGS.out, "skipped": skipped, **as_dict(written)}
        files.write_json(FLAGS.json, report)


def _report(skipped: Sequence[str]) -> None:
    print(f"{FLAGS.original}: {len(skipped)} tensors skipped")
    print("".join(f"  skipped  {name}\n" for name in skipped), end="")


def _read_pth(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a PyTorch file, under "model" or at its top level, floating-point ones as float32. No code in the
    file is run.

    Raises FileNotFoundError or ValueError naming the file, or the extra to install.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        import torch
    except ImportError as error:
        raise ValueError(f"{path}: reading it needs torch: pip install -e '.[original]'") from error
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: holds more than tensors; reading those could run any code, so it is refused. If you trust the "
            "file, save only its tensors: torch.save({'model': tensors}, file)"
        ) from error
    except Exception as error:  # torch raises many kinds of errors on other files
        raise ValueError(f"{path}: truncated, or not a file of torch.save ({type(error).__name__})") from error
    tensors = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(x, torch.Tensor) for x in tensors.values()):
        raise ValueError(
            f'{path}: has no tensors under "model", where the original projects keep them, nor tensors at the top level'
        )
    return {name: (x.float() if x.is_floating_point() else x).numpy() for name, x in tensors.items()}
