"""Export to a Hugging Face directory: instructblip export --model M [--workdir W] --out DIR [--push REPO]

M with the trained parameters of the run W, for `transformers` and everything else that reads this layout. Untrained
tensors (all of them without --workdir) are copied as M stores them. Adapters (LoRA) are merged into tensors of
M, which keep their type; with --lora=adapter DIR is an adapter of M instead, for the peft library. DIR also holds a
model card, README.md: the base model and its licence, the training, and the scores of W/evaluation.json.

--push REPO lists the files that would be uploaded to the model repository REPO of the Hugging Face hub; with --upload
they are uploaded, and a new repository is private. Without --model, what is in DIR already is pushed as it is.
"""

from collections.abc import Sequence

from absl import flags

from instructblip_jax import hub

FLAGS = flags.FLAGS


def define_flags(argv: Sequence[str]) -> None:
    """This command's flags."""
    flags.DEFINE_string("model", None, "Model directory in the Hugging Face layout, or a hub id.")
    flags.DEFINE_string("workdir", None, "Directory of a run of `train` whose newest trained parameters are used.")
    flags.DEFINE_string("out", None, "Directory to write; it must not exist, or be empty.")
    flags.DEFINE_string("push", None, "Model repository on the hub, org/name: list what would be uploaded to it.")
    flags.DEFINE_bool("upload", False, "With --push: upload it.")
    flags.DEFINE_enum(
        "lora",
        "merged",
        ["merged", "adapter"],
        "How to export a run's LoRA: merged into M's tensors, or as an adapter for M.",
    )
    flags.DEFINE_float("max_shard_gb", 5.0, "Maximum size of a weight file, in GB.", lower_bound=1e-9)
    flags.DEFINE_string("json", None, "Also write the report here as JSON.")


def check_flags(args: Sequence[str]) -> None:
    """Raise ValueError for a wrong command line."""
    if args:
        raise ValueError(f"unexpected {' '.join(args)}")
    if not FLAGS.out or not (FLAGS.model or FLAGS.push):
        raise ValueError("--model and --out are needed")
    if FLAGS.push and not hub.is_hub_id(FLAGS.push):
        raise ValueError(f"--push {FLAGS.push}: a repository of the hub has the form org/name")
    if FLAGS.upload and not FLAGS.push:
        raise ValueError("--upload needs --push, which names the repository")
    if FLAGS.workdir and not FLAGS.model:
        raise ValueError("--workdir needs --model, the model that the run started from")
    if FLAGS.lora == "adapter" and not FLAGS.workdir:
        raise ValueError("--lora=adapter needs --workdir, the run that trained the adapters")
