"""The console script: ``instructblip COMMAND [--flags]``, the same as ``python -m instructblip_jax``."""

import importlib
import os
import sys
import traceback
import warnings
from types import ModuleType

from absl import flags, logging

from instructblip_jax import files, run_flags

COMMANDS = {
    "train": "instruction-tune: --config C --workdir W; resumes from W by itself",
    "evaluate": "the configured suite, one row a set: --config C --workdir W",
    "answer": "answer about pictures: --model M [--workdir W] --image F INSTRUCTION ...",
    "export": "a Hugging Face directory: --model M [--workdir W] --out DIR",
    "convert": "BLIP-2 and BERT, or the original's files, to a model: --out DIR, see --help",
    "score": "anybody's predictions, no model needed: METRIC --predictions P.jsonl --references R.jsonl",
    "prepare": "a data set into ArrayRecord: NAME --out DIR",
    "plan": "fits it, and how fast: --config C --topology v5e:4x4, without a TPU; --sweep",
    "ablate": "the paper's ablations, several seeds, a table and a plot: --config C --workdir W",
}
"""Command -> what it does; each is a file of its name in ``commands/`` with ``define_flags`` and ``run``."""

TRY_AGAIN = 75
"""Exit code (sysexits.h: EX_TEMPFAIL) where a machine or the network failed, not the command: start it again."""


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        ["usage: instructblip COMMAND [--flags]", "", *lines, "", "instructblip COMMAND --help tells the rest"]
    )


def _reason(error: Exception, args: list[str]) -> str:
    """One line. What a configuration file raised comes bare, or with its traceback: only its last line is told."""
    text = str(error)
    if isinstance(error, (flags.Error, OSError, ValueError)) and "\n" not in text:
        return text
    given = [arg for arg in args if arg.split("=")[0] in ("--config", "-config") or not arg.startswith("-")]
    return f"{' '.join(given)}: {type(error).__name__}: {text.strip().splitlines()[-1] if text else ''}"


def _job() -> ModuleType | None:
    """`distributed`, where a command has used it: it brings jax, which scoring and --help need not wait for."""
    return sys.modules.get("instructblip_jax.distributed")


def _note(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as one line, without the place in the code."""
    print(f"note: {message}", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns 0; after a failure told in one line on stderr 1, 2 for a wrong command line, or
    `TRY_AGAIN`."""
    name, *args = (sys.argv if argv is None else argv)[1:] or ["--help"]
    if name in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if name not in COMMANDS:
        print(f"instructblip: no command {name!r}\n{_usage()}", file=sys.stderr)
        return 2
    # What the libraries log at start-up is for their developers; it comes back with --verbosity=1.
    logging.use_absl_handler()
    logging.set_verbosity(logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.showwarning = _note
    command = importlib.import_module(f"instructblip_jax.commands.{name}")
    command.define_flags(args)
    if {"-h", "--help"} & set(args):
        own = [flags.FLAGS.module_help(module) for module in (run_flags.__name__, command.__name__)]
        print("\n\n".join(filter(None, [command.__doc__, *own])))
        return 0
    try:
        rest = flags.FLAGS([f"instructblip {name}", *args])[1:]
        command.check_flags(rest)
        for argument in args:
            files.check_installed(argument)
    except Exception as error:  # reading the flags runs the configuration file, which may raise anything
        print(f"instructblip {name}: {_reason(error, args)}", file=sys.stderr)
        return 2
    try:
        command.run(rest)
    except KeyboardInterrupt:
        print(f"instructblip {name}: interrupted", file=sys.stderr)
        if job := _job():
            job.leave(130)
        return 130
    except Exception as error:  # the last resort of a command line: one line, and the rest when asked for
        if flags.FLAGS.verbosity >= 1:
            traceback.print_exc()
        expected = isinstance(error, (ValueError, OSError))
        job = _job()
        gone = job.lost(error) if job else None
        print(f"instructblip {name}: {gone or (error if expected else repr(error))}", file=sys.stderr)
        code = TRY_AGAIN if gone or isinstance(error, ConnectionError) else 1
        if job:
            job.leave(code)
        return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
