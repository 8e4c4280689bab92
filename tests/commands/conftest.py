"""The command line in this process, for what ends early."""

import importlib
import sys

import pytest
from absl import flags
from worlds import Result

from instructblip_jax.__main__ import COMMANDS, main


@pytest.fixture
def cli(capfd, monkeypatch):
    """Runs one command line in this process; the next one finds no flag of it."""
    for name in COMMANDS:
        importlib.import_module(f"instructblip_jax.commands.{name}")  # and with it the flags of libraries, which stay
    before = set(flags.FLAGS)

    def run(*argv: object) -> Result:
        capfd.readouterr()
        command = ["instructblip", *map(str, argv)]
        monkeypatch.setattr(sys, "argv", command)  # where ml_collections looks for overrides
        try:
            code = main(command)
        finally:
            for name in set(flags.FLAGS) - before:
                delattr(flags.FLAGS, name)
            flags.FLAGS.unparse_flags()
            sys.modules.pop("config_config", None)  # the configuration file, as ml_collections imports it
        return Result(code, *capfd.readouterr())

    return run
