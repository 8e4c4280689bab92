"""A Hugging Face directory of a trained model: instructblip export --model M [--workdir W] --out DIR

M with the trained parameters of the run W, for `transformers` and everything else that reads this layout. Tensors that
were not trained, without --workdir all of them, are copied as M stores them. Adapters (LoRA) are merged into tensors of
M, which keep their type; with --lora=adapter DIR is an adapter of M instead, for the peft library.
"""

from collections.abc import Sequence

from absl import flags

FLAGS = flags.FLAGS


def define_flags(argv: Sequence[str]) -> None:
    """This command's flags."""
    flags.DEFINE_string("model", None, "Model directory in the Hugging Face layout, or a hub id.")
    flags.DEFINE_string("workdir", None, "Directory of a run of `train` whose newest trained parameters are used.")
    flags.DEFINE_string("out", None, "Directory to write, not there yet or empty.")
    flags.DEFINE_enum(
        "lora",
        "merged",
        ["merged", "adapter"],
        "What becomes of a run's LoRA: merged into M's tensors, or an adapter beside M.",
    )
    flags.DEFINE_float("max_shard_gb", 5.0, "Largest size of a weight file.", lower_bound=1e-9)
    flags.DEFINE_string("json", None, "Also write the report here, for programs.")


def check_flags(args: Sequence[str]) -> None:
    """Raise ValueError for a wrong command line."""
    if args:
        raise ValueError(f"unexpected {' '.join(args)}")
    if not FLAGS.model or not FLAGS.out:
        raise ValueError("--model and --out are needed")
    if FLAGS.lora == "adapter" and not FLAGS.workdir:
        raise ValueError("--lora=adapter needs --workdir, the run that trained the adapters")
