"""The flags of the commands that work on a run: --config C, with its overrides, and --workdir W."""

import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, FrozenConfigDict, config_flags
from ml_collections.config_flags import config_path, tuple_parser
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

FLAGS = flags.FLAGS


PACKAGE = Path(str(files("instructblip_jax")))


def found(path: str) -> str:
    """FILE.py[:VARIANT] unchanged or, if the file does not exist, the file of that name that ships with the package.

    The short form is NAME[:VARIANT]: `digits` is configs/digits.py. The files are in the package or, in a checkout,
    next to it.
    """
    file, colon, variant = path.partition(":")
    name = re.fullmatch(r"(?:configs/)?(\w+)(?:\.py)?", file)
    if name and not Path(file).is_file():
        for folder in (PACKAGE / "configs", PACKAGE.parent / "configs"):
            if (shipped := folder / f"{name[1]}.py").is_file():
                return f"{shipped}{colon}{variant}"
    return path


def define(argv: Sequence[str]) -> None:
    """Define both flags; ``argv`` holds the overrides, such as --config.steps=5."""
    define_config(argv)
    flags.DEFINE_string("workdir", None, "Directory of the run, local or gs://.")


def define_config(argv: Sequence[str]) -> None:
    """Define --config alone, for a command without a workdir. Raises flags.Error if it is given twice."""
    if sum(re.match(r"--?config(=|$)", arg) is not None for arg in argv) > 1:  # one file's overrides would be lost
        raise flags.Error("--config is given more than once")
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Configuration file, FILE.py or FILE.py:VARIANT; or the NAME of a shipped one, such as digits.",
        sys_argv=["instructblip", *argv],
    )
    FLAGS["config"].parser = _Completed(argv)


class _Completed(ConfigFileFlagParser):
    """Reads a configuration file, and adds the fields that it leaves out, before overrides are applied."""

    def __init__(self, argv: Sequence[str]):
        super().__init__(name="config", lock_config=False)  # locking fails on required placeholders
        self.argv = argv

    def parse(self, path: str) -> Any:
        from instructblip_jax.run.config import complete, make_room

        path = found(path)
        try:
            config = super().parse(path)
        except Exception as error:  # the file may raise anything; the text of a ValueError holds its traceback
            last = f"{type(error).__name__}: {error}".strip().splitlines()[-1]
            raise flags.Error(f"{path}: {last.removeprefix('ValueError: ')}") from error
        if isinstance(config, FrozenConfigDict):
            config = config.as_configdict()
        if isinstance(config, ConfigDict):
            complete(config)
            for arg in FLAGS.read_flags_from_files(self.argv, force_gnu=False):  # with a --flagfile's
                override = re.match(r"--?(?:no)?config\.([^=]*)", arg)
                try:
                    make_room(config, _names(override[1]) if override else ())
                except ValueError as error:
                    raise flags.Error(f"{arg.partition('=')[0]}: {error}") from error
        return config


def _names(override: str) -> tuple[str, ...]:
    """The path of an override: mixture.weights['gqa:val'] -> ("mixture", "weights", "gqa:val")."""
    try:
        names = config_path.split(override)
        if all(isinstance(name, str) for name in names):
            return names
    except ValueError:
        pass
    raise ValueError("not a field; put other than plain names in quotes: \"--config.mixture.weights['gqa:val']=2\"")


class _Tuple(tuple_parser.TupleParser):
    """Reads several names without brackets and quotes: --config.mixture.sets=vqav2,gqa:val."""

    def parse(self, argument: Any) -> tuple:
        if isinstance(argument, str) and re.fullmatch(r"[^\[\]()'\"]*", argument):
            words = [word.strip() for word in argument.split(",") if word.strip()]
            return tuple(int(word) if word.isdecimal() else word for word in words)
        return super().parse(argument)


class _Bool(flags.BooleanParser):
    def parse(self, argument: Any) -> bool:
        try:
            return super().parse(argument)
        except ValueError:
            raise ValueError("true or false is needed") from None


config_flags.register_flag_parser_for_type(tuple, _Tuple())
config_flags.register_flag_parser_for_type(bool, _Bool())


def check(args: Sequence[str]) -> None:
    """Raise ValueError or FileNotFoundError unless both flags are given, with a valid configuration."""
    if not FLAGS["config"].present or not FLAGS.workdir:
        raise ValueError("--config and --workdir are needed")
    check_config(args)


def check_config(args: Sequence[str]) -> None:
    """Raise ValueError or FileNotFoundError unless there is a valid configuration, and no further argument."""
    path = found(config_flags.get_config_filename(FLAGS["config"])).partition(":")[0]
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such configuration file")
    if not isinstance(FLAGS.config, ConfigDict):
        try:
            getattr(FLAGS.config, "steps", None)  # ml_collections defers the OSError of a file until it is used
        except OSError as error:
            raise ValueError(f"{path}: {error.__cause__}") from error
        raise ValueError(f"{path}: get_config() returns a {type(FLAGS.config).__name__}, not a ConfigDict")
    if args:
        raise ValueError(f"unexpected arguments: {' '.join(args)}")
    from instructblip_jax.run.config import resolve

    try:
        resolve(FLAGS.config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
