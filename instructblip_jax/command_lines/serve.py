"""Serve a web page and an OpenAI-compatible API: instructblip serve --model M [--workdir W] [--port 8000]

M is a model directory in the Hugging Face layout, a hub id, or the name of an embedded model such as "digits";
--workdir uses the trained parameters of a run, and the run's model if no --model is given. All programs are compiled
first, then http://127.0.0.1:8000 answers: the page at /, and POST /v1/chat/completions for OpenAI's clients. Requests
that arrive together are decoded together, up to --rows answers. Nothing is fetched from the network, and only this
machine can reach the port unless --host says otherwise. SIGTERM finishes what is running. docs/serve.md has the rest;
it needs: pip install -e '.[serve]'
"""

import importlib.util
import os
from collections.abc import Sequence

from absl import flags

FLAGS = flags.FLAGS
NEEDED = ("starlette", "uvicorn", "prometheus_client")


def define_flags(argv: Sequence[str]) -> None:
    """Define the flags of this command."""
    flags.DEFINE_string("model", None, "Model directory in the Hugging Face layout, a hub id, or an embedded model.")
    flags.DEFINE_string("workdir", None, "Workdir of a `train` run whose trained parameters are used.")
    flags.DEFINE_integer("port", 8000, "Port; 0 takes any free port.", lower_bound=0, upper_bound=65535)
    flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; 0.0.0.0 is reachable from other machines.")
    flags.DEFINE_integer("rows", 16, "Number of answers that are decoded together.", lower_bound=1, upper_bound=1024)
    longest = "256, or less if the model has fewer positions."
    flags.DEFINE_integer("max_tokens", None, f"Longest answer, in tokens; {longest}", lower_bound=1, upper_bound=65536)
    flags.DEFINE_integer(
        "max_prompt", None, f"Longest text asked, in tokens; {longest}", lower_bound=4, upper_bound=65536
    )
    flags.DEFINE_integer(
        "pictures", 4, "Maximum number of images per prompt, for models that take several.", lower_bound=1
    )
    flags.DEFINE_integer("queue", 64, "Maximum number of waiting requests; further ones are refused.", lower_bound=1)
    flags.DEFINE_string("token", None, "Bearer token that requests must send; also read from INSTRUCTBLIP_TOKEN.")
    flags.DEFINE_string("dtype", None, "Compute type; the default is the run's, or bfloat16.")
    flags.DEFINE_bool("int8", False, "Store the language model's matrices as int8: half the memory of bfloat16.")
    flags.DEFINE_string("json", None, "Also write address, model and limits here as JSON, once requests are accepted.")


def check_flags(args: Sequence[str]) -> None:
    """Raise ValueError for a wrong command line, or if the extra is not installed."""
    if not FLAGS.model and not FLAGS.workdir:
        raise ValueError("--model is needed, such as --model digits; or --workdir, for the model of a run")
    if args:
        raise ValueError(f"unexpected arguments: {' '.join(args)}")
    if token() == "":
        raise ValueError("--token is empty; leave it out for a server without a token")
    if missing := next((name for name in NEEDED if importlib.util.find_spec(name) is None), None):
        raise ValueError(f"{missing} is not installed; pip install -e '.[serve]' installs what this command needs")


def token() -> str | None:
    """The token that requests must send, None if there is none."""
    return os.environ.get("INSTRUCTBLIP_TOKEN") if FLAGS.token is None else FLAGS.token
