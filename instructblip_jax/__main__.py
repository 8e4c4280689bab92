"""The console script: ``instructblip COMMAND [--flags]``, the same as ``python -m instructblip_jax``."""

import importlib
import importlib.metadata
import os
import sys
import textwrap
import traceback
import warnings
from types import ModuleType

from absl import flags, logging

from instructblip_jax import compile_cache, files, printing
from instructblip_jax.command_lines import run_flags, series_flags

COMMANDS = {
    "train": "train: --config C --workdir W; resumes from W automatically",
    "evaluate": "evaluate a run on the configured sets: --config C --workdir W",
    "answer": "answer about images: --model M [--workdir W] --image F INSTRUCTION ...",
    "serve": "serve a web page and an OpenAI-compatible API on localhost: --model M [--workdir W] [--port P]",
    "export": "export to a Hugging Face directory: --model M [--workdir W] --out DIR",
    "assemble": "assemble a new model directory from parts of others: SYSTEM --PART DIR ... --out DIR",
    "convert": "convert BLIP-2 and BERT, or the original's files, to a model: --out DIR, see --help",
    "score": "score anybody's predictions, no model needed: METRIC --predictions P.jsonl --references R.jsonl",
    "prepare": "convert a dataset, or your own files, to ArrayRecord: NAME --source DIR --out DIR",
    "capfilt": "caption and filter web images: --captioner M --filter M --source F --out DIR",
    "plan": "plan memory and time of a run, without a TPU: --config C --topology v5e:4x4; --sweep",
    "compare": "compare several systems in one table: --config C1,C2,... --workdir W",
    "ablate": "run the paper's ablations, several seeds, a table and a plot: --config C --workdir W",
}
"""Command -> summary. Each command is two files: in ``command_lines/``, with ``define_flags`` and ``check_flags``, and
in ``commands/``, with ``run``, which is imported only after the command line has been checked."""

COMPILING = ("train", "evaluate", "answer", "serve", "capfilt", "compare", "ablate")
"""Commands that run a model. (JAX does not cache the programs that `plan` compiles for an absent slice.)"""

TRY_AGAIN = 75
"""Exit code (sysexits.h: EX_TEMPFAIL) after a failure of a machine or of the network: start the command again."""


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: instructblip COMMAND [--flags]",
            "",
            *lines,
            "",
            "instructblip COMMAND --help lists its flags; instructblip --version",
        ]
    )


def _flags(module: ModuleType) -> str:
    """The flags that a module defines, with their texts and those defaults that are not plain to see."""
    lines = []
    for flag in flags.FLAGS.get_flags_for_module(module):
        shown = flag.default not in (None, "", []) and flag.default is not False
        default = f" (default: {flag.default})" if shown else ""
        text = (flag.help or "").partition("\n")[0].rstrip(";") + default
        lines.append(textwrap.fill(text, 120, initial_indent=f"  --{flag.name}: ", subsequent_indent="    "))
    return "\n".join(lines)


def _reason(error: Exception) -> str:
    """An error as one line."""
    text = str(error).strip()
    if isinstance(error, (flags.Error, OSError, ValueError)) and "\n" not in text:
        return text
    return f"{type(error).__name__}: {text.splitlines()[-1] if text else ''}"


def _job() -> ModuleType | None:
    """`distributed`, if a command has imported it: it imports jax, which scoring and --help do not need."""
    return sys.modules.get("instructblip_jax.distributed")


def _note(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning as one line, without its place in the code."""
    print(f"note: {message}", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns 0; or, after one line on stderr, 1 for a failure, 2 for a wrong command line, or
    `TRY_AGAIN`."""
    with printing.whoever_reads():
        return _main(*(sys.argv if argv is None else argv)[1:])


def _main(name: str = "--help", *given: str) -> int:
    args = list(given)
    if name in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if name == "--version":
        print(importlib.metadata.version("instructblip_jax"))
        return 0
    if name not in COMMANDS:
        print(f"instructblip: no command {name!r}\n{_usage()}", file=sys.stderr)
        return 2
    # The libraries' start-up logs are for their developers; --verbosity=1 shows them.
    logging.use_absl_handler()
    logging.set_verbosity(logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.showwarning = _note
    line = importlib.import_module(f"instructblip_jax.command_lines.{name}")
    not_kept = ""
    try:
        line.define_flags(args)
        if {"-h", "--help"} & set(args):
            own = "\n".join(filter(None, map(_flags, (run_flags, series_flags, line))))
            kept = compile_cache.HELP.strip() if name in COMPILING else None
            about = "--verbosity=1 shows the traceback behind an error."
            print("\n\n".join(filter(None, [(line.__doc__ or "").strip(), kept, f"Flags:\n{own}", about])))
            return 0
        if name in COMPILING:
            not_kept = compile_cache.use()  # before jax is imported, as a configuration does
        rest = flags.FLAGS([f"instructblip {name}", *args])[1:]
        line.check_flags(rest)
        for argument in args:
            files.check_installed(argument)
    except Exception as error:  # reading the flags runs the configuration file, which may raise anything
        print(f"instructblip {name}: {_reason(error)}", file=sys.stderr)
        return 2
    if not_kept:
        print(f"note: compiled programs are not kept for the next start: {not_kept}", file=sys.stderr)
    try:
        importlib.import_module(f"instructblip_jax.commands.{name}").run(rest)
    except SystemExit:
        raise
    except KeyboardInterrupt:
        print(f"instructblip {name}: interrupted", file=sys.stderr)
        if job := _job():
            job.leave(130)
        return 130
    except BaseException as error:  # also the panics of Rust, which are no Exception
        expected = isinstance(error, (ValueError, OSError))
        message = str(error) if expected else repr(error)
        if flags.FLAGS.verbosity >= 1:
            traceback.print_exc()
        elif not expected:
            message += "; --verbosity=1 shows the traceback"
        job = _job()
        gone = job.lost(error) if job else None
        print(f"instructblip {name}: {gone or message}", file=sys.stderr)
        code = TRY_AGAIN if gone or isinstance(error, ConnectionError) else 1
        if job:
            job.leave(code)
        return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
