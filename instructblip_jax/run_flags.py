"""The flags of the commands that work on a run: --config C, with its overrides, and --workdir W."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

FLAGS = flags.FLAGS
OVERRIDE = "config."


def define(argv: Sequence[str]) -> None:
    """The two flags; ``argv`` is where overrides such as --config.steps=5 stand."""
    define_config(argv)
    flags.DEFINE_string("workdir", None, "Directory of the run, local or gs://.")


def define_config(argv: Sequence[str]) -> None:
    """The first of them, for a command that leaves nothing."""
    config_flags.DEFINE_config_file(
        "config", None, "Configuration file, FILE.py or FILE.py:VARIANT.", sys_argv=["instructblip", *argv]
    )
    FLAGS["config"].parser = _Completed(argv)


class _Completed(ConfigFileFlagParser):
    """Reads a configuration file, and adds the fields that it leaves out before overrides are looked up in it."""

    def __init__(self, argv: Sequence[str]):
        super().__init__(name="config")
        names = [arg.lstrip("-").partition("=")[0] for arg in argv if arg.startswith("-")]
        self.overridden = [name.removeprefix(OVERRIDE) for name in names if name.startswith(OVERRIDE)]

    def parse(self, path: str) -> Any:
        from instructblip_jax.config import complete  # brings jax, which --help need not wait for

        config = super().parse(path)
        return complete(config, self.overridden) if isinstance(config, ConfigDict) else config


def check(args: Sequence[str]) -> None:
    """Raise ValueError or FileNotFoundError unless both are given, with a configuration that can be used."""
    if not FLAGS["config"].present or not FLAGS.workdir:
        raise ValueError("--config and --workdir are needed")
    check_config(args)


def check_config(args: Sequence[str]) -> None:
    """Raise ValueError or FileNotFoundError unless there is a configuration that can be used, and nothing else."""
    path = config_flags.get_config_filename(FLAGS["config"]).partition(":")[0]
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such configuration file")
    if not isinstance(FLAGS.config, ConfigDict):
        raise ValueError(f"{path}: get_config() returns {FLAGS.config!r}, not a ConfigDict")
    if args:
        raise ValueError(f"does not know what to do with {' '.join(args)}")
