"""Assemble a new model directory from parts of others: instructblip assemble SYSTEM --PART DIR ... --out DIR

Tensors of the parts are hard-linked or copied as they are stored; what no part has, such as a new projection, is
initialised with --seed. DIR is a model directory, or a hub id. The systems, and the parts that make one:

  instructblip --blip2 --bert [--language]
  instructblip --vision --bert --language
  instructblip --model --language
  blip-2 --vision --bert
  blip-2 --vision --language [--bert]
  blip-2 --qformer --language [--vision]
  llava --vision --language
  flamingo --vision --language
  frozen --language [--vision]
  kosmos-1 --vision --language
  x-instructblip --language [--image] [--video] [--audio] [--pc] [--bert] [--qformer]
  albef --vision --bert
  albef --model
  blip --vision --bert
  blip --model

albef and blip have several forms; --task names the one to make from --model.
"""

from collections.abc import Sequence

from absl import flags

from instructblip_jax.convert import ingredients

FLAGS = flags.FLAGS


def define_flags(argv: Sequence[str]) -> None:
    """This command's flags."""
    flags.DEFINE_string("out", None, "Directory to write; it must not exist, or be empty.")
    for part, content in ingredients.PARTS.items():
        systems = ", ".join(ingredients.takers(part)) or "no system yet"
        flags.DEFINE_string(part, None, f"{content} ({systems})")
    flags.DEFINE_enum("projector", None, ingredients.PROJECTORS, "Kind of llava's new projector: 1.5's or 1.0's (mlp).")
    tasks = "; ".join(f"{system}: {', '.join(names)}" for system, names in ingredients.TASKS.items())
    flags.DEFINE_string("task", None, f"Form to make from --model ({tasks}).")
    flags.DEFINE_integer(
        "queries",
        None,
        "Number of new query tokens (blip-2, instructblip), of latents (flamingo), or of vectors per image (frozen); "
        "default: that of the paper.",
        lower_bound=1,
    )
    flags.DEFINE_integer("every", None, "Layers between flamingo's blocks. Default: 4.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Seed for all weights that no part has.", lower_bound=0)
    flags.DEFINE_float("max_shard_gb", 5.0, "Maximum size in GB of a weight file that is not linked.", lower_bound=1e-9)
    flags.DEFINE_string("json", None, "Also write the report here as JSON.")


def check_flags(args: Sequence[str]) -> None:
    """Raise ValueError for a wrong command line."""
    if not args:
        raise ValueError(f"name the system to assemble: {', '.join(ingredients.SYSTEMS)}")
    system, *more = args
    if more:
        raise ValueError(f"unexpected {' '.join(more)}")
    parts = [part for part in ingredients.PARTS if FLAGS[part].value]
    ingredients.check(system, parts)
    ingredients.check_task(system, parts, FLAGS.task)
    ingredients.check_projector(system, FLAGS.projector)
    ingredients.check_queries(system, parts, FLAGS.queries)
    ingredients.check_every(system, FLAGS.every)
    if not FLAGS.out:
        raise ValueError("--out is needed")
