"""Make the goldens beside this file: tiny checkpoints in the public layout, inputs, and what the reference answers.

    python tests/goldens/make.py --oracle PATH

PATH is the folder of the oracle (`make_tiny_hf.py`, `hf_reference.py`), which runs transformers on PyTorch; both, and
tokenizers, have to be installed. The oracle writes checkpoint, inputs, bucket tables and greedy ids. Its stages, logits
and loss are float32: the stored ones are the same in float64, and so are the gradients, of which the oracle has a few,
of every tensor in the largest trainable set (`original`). What the tests do not read is left out.
"""

import argparse
import importlib
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import reference  # noqa: E402

KINDS = ("instructblip", "blip2")
# No two sizes agree, so that a forgotten transpose fails; 21 / 7 is an odd grid, 4 heads of 6 are not the width 20.
SIZES = {
    "image": 21,
    "patch": 7,
    "queries": 5,
    "v": {"hidden_size": 18, "intermediate_size": 26, "num_hidden_layers": 2, "num_attention_heads": 3},
    "q": {
        "hidden_size": 16,
        "intermediate_size": 22,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "max_position_embeddings": 40,
    },
    "t5": {"d_model": 20, "d_kv": 6, "d_ff": 28, "num_heads": 4, "num_layers": 3, "num_decoder_layers": 2},
    "llama": {"num_attention_heads": 1},  # looked up by the oracle whatever the family
}
SEED = "11"  # greedy answers of these weights are of several lengths and not one repeated token
INPUTS = ("pixel_values", "input_ids", "attention_mask", "qformer_input_ids", "qformer_attention_mask", "labels")
OTHERS = ("greedy_ids", "greedy_margin", "t5_bucket_encoder", "t5_bucket_decoder", "image_0", "meta")
STAGES = {
    "vision": "vision_last_hidden_state",
    "prefix": "prefix",
    "encoder": "encoder_last_hidden_state",
    "logits": "logits",
    "loss": "loss",
}
"""Our name of a stage -> the oracle's."""


def run(module: str, *args: str) -> None:
    """The oracle's scripts are commands: called in this process, so that a size of ours can be given to them."""
    sys.argv = [module, *args]
    importlib.import_module(module).main()


def make(kind: str) -> None:
    directory = HERE / kind
    shutil.rmtree(directory, ignore_errors=True)
    run(
        "make_tiny_hf",
        "--family",
        "t5",
        "--variant",
        kind,
        "--scale",
        "golden",
        "--seed",
        SEED,
        "--out",
        str(directory),
    )
    with tempfile.TemporaryDirectory() as scratch:
        run("hf_reference", "--model", str(directory), "--out", f"{scratch}/all.npz")
        oracle = dict(np.load(f"{scratch}/all.npz"))
    reference.torch.set_grad_enabled(True)
    model = reference.load(directory)
    theirs = {name: reference.torch.from_numpy(oracle[name]) for name in INPUTS if name in oracle}
    exact = reference.answers(model, theirs | {"pixel_values": theirs["pixel_values"].double()})
    for name, other in (STAGES | {name: name for name in exact if name in oracle}).items():
        scale = np.abs(exact[name]).max()
        np.testing.assert_allclose(exact[name] / scale, oracle[other] / scale, atol=1e-5, rtol=0, err_msg=name)
    kept = {name: oracle[name] for name in (*INPUTS, *OTHERS) if name in oracle}
    np.savez_compressed(directory / "expected.npz", **kept, **exact)
    if kind == "blip2":  # has the other one's tokenizer
        for path in directory.glob("*token*"):
            path.unlink()
    print(directory, sum(f.stat().st_size for f in directory.rglob("*") if f.is_file()), "bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oracle", required=True, type=Path, help="folder of make_tiny_hf.py and hf_reference.py")
    sys.dont_write_bytecode = True  # the oracle's folder is not ours
    sys.path.insert(0, str(parser.parse_args().oracle))
    importlib.import_module("make_tiny_hf").SCALES["golden"] = SIZES
    reference.torch.set_num_threads(1)
    for kind in KINDS:
        make(kind)


if __name__ == "__main__":
    main()
