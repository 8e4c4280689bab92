"""Make the goldens beside this file: tiny checkpoints in the public layout, inputs, and what the reference answers.

    python tests/goldens/make.py --oracle PATH [KIND ...]

PATH is the folder of the oracle (`make_tiny_hf.py`, `hf_reference.py`; `flamingo_reference.py` for kosmos1 and
flamingo, `modality_towers_reference.py` for towers), which runs transformers on PyTorch; both, and tokenizers, have to
be installed. The oracle writes checkpoint, inputs, bucket tables and greedy ids. Its stages, logits and loss are
float32: the stored ones are the same in float64, and so are the gradients, of which the oracle has a few, of every
tensor in the largest trainable set (`original`); those of kosmos1, flamingo and towers are as the oracle has them. What
the tests do not read is left out.
"""

import argparse
import importlib
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import checkpoints  # noqa: E402
import modality_qformer  # noqa: E402
import reference  # noqa: E402

KINDS = {
    "instructblip": ("golden", ["--family", "t5"]),
    "blip2": ("golden", ["--family", "t5", "--variant", "blip2"]),
    "llama": ("golden-small", ["--family", "llama", "--kv-heads", "2"]),
    "opt": ("golden-small", ["--family", "opt", "--variant", "blip2"]),
    "video": ("golden-small", ["--family", "llama", "--kv-heads", "2", "--variant", "instructblipvideo"]),
}
"""Directory -> scale and the oracle's arguments."""
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
SMALL = {
    "image": 21,
    "patch": 7,
    "queries": 4,
    "v": {"hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2},
    "q": {
        "hidden_size": 14,
        "intermediate_size": 18,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 40,
    },
    "llama": {"hidden_size": 16, "intermediate_size": 26, "num_hidden_layers": 2, "num_attention_heads": 4},
    "opt": {
        "hidden_size": 24,
        "ffn_dim": 30,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "word_embed_proj_dim": 24,
        "max_position_embeddings": 120,
    },
}
SEED = "11"  # greedy answers of these weights are of several lengths and not one repeated token
INPUTS = ("pixel_values", "input_ids", "attention_mask", "qformer_input_ids", "qformer_attention_mask", "labels")
JOINED = ("input_ids", "attention_mask")
"""Decoder-only models have these twice: "train_..." with the answers, and the prompts as their processor pads them."""
OTHERS = ("greedy_ids", "greedy_margin", "t5_bucket_encoder", "t5_bucket_decoder", "image_0", "meta")
STEP = 8
"""Of the joined texts' logits every so manieth position is kept."""
FLAMINGO = re.compile(
    r"meta|param/.*|in/.*|out/(latents|pict|frame_embs|block_|logits|loss|.*labels|greedy_ids|candidate).*"
    r"|grad/(documents|next)/(perceiver\.(latents|norm\.bias|layers\.0\.0\.to_kv\.weight)"
    r"|gated_cross_attn_layers\.\d\.(attn_gate|ff_gate|attn\.(norm|to_q|to_kv)\.weight|ff\.0\.bias)"
    r"|model\.embed_tokens\.weight)"
)
"""The arrays of the oracle's statements of Flamingo that are kept."""
TOWERS = re.compile(
    r"meta|w/.*|grad/.*|grad_input|qformer/.*|fbank|output|padding|padded_output|public_buckets|probe"
    r"|points|embedding|shuffled_.*|embedding_start_77"
    r"|stage/(encoder_in|gate/\d|layer/\d|fps_index|neighbours|patch_features|position|block/\d|normed)"
)
"""The arrays of its statements of BEATs and PointBERT that are kept."""
ONCE = re.compile(r"grad/|public_buckets|stage/(?!fps_index|neighbours)")
"""Those that are kept of the first seed alone."""
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
    scale, args = KINDS[kind]
    run("make_tiny_hf", *args, "--scale", scale, "--seed", SEED, "--out", str(directory))
    with tempfile.TemporaryDirectory() as scratch:
        run("hf_reference", "--model", str(directory), "--out", f"{scratch}/all.npz")
        oracle = dict(np.load(f"{scratch}/all.npz"))
    reference.torch.set_grad_enabled(True)
    model = reference.load(directory)
    theirs = {name: reference.torch.from_numpy(oracle[name]) for name in INPUTS if name in oracle}
    theirs["pixel_values"] = theirs["pixel_values"].double()
    joined = {name: oracle[f"train_{name}"] for name in JOINED if f"train_{name}" in oracle}
    exact = reference.answers(model, theirs | {name: reference.torch.from_numpy(x) for name, x in joined.items()})
    if joined:
        text = exact["logits"].shape[1]
        real = oracle["train_attention_mask"][:, -text:, None] == 1  # behind the padding nobody looks
        oracle["logits"] = np.where(real, oracle["train_logits"][:, -text:], exact["logits"])
        prompts = reference.answers(model, theirs | {"labels": theirs["input_ids"]})["logits"]
        real = oracle["attention_mask"][:, -prompts.shape[1] :] == 1
        known = oracle["logits_generate_positions"][:, -prompts.shape[1] :]
        np.testing.assert_allclose(prompts[real], known[real], atol=1e-4, rtol=0)
        exact |= {"prompt_logits": prompts[:, -1]} | {f"train_{name}": x for name, x in joined.items()}
    for name, other in (STAGES | {name: name for name in exact if name in oracle}).items():
        if name in exact:
            scale = np.abs(exact[name]).max()
            np.testing.assert_allclose(exact[name] / scale, oracle[other] / scale, atol=1e-5, rtol=0, err_msg=name)
    if joined:
        exact["logits"] = exact["logits"][:, ::STEP]
    kept = {name: oracle[name] for name in (*INPUTS, *OTHERS) if name in oracle}
    np.savez_compressed(directory / "expected.npz", **kept, **exact)
    if kind in ("blip2", "video"):  # have the tokenizers of "instructblip" and "llama"
        for path in directory.glob("*token*"):
            path.unlink() if path.is_file() else shutil.rmtree(path)
    if kind == "video":  # and the weights
        assert (directory / "model.safetensors").read_bytes() == (HERE / "llama" / "model.safetensors").read_bytes()
        (directory / "model.safetensors").unlink()
    print(directory, sum(f.stat().st_size for f in directory.rglob("*") if f.is_file()), "bytes")


def make_flamingo() -> None:
    """Weights, inputs and answers of the oracle's plain statements of Flamingo, as the open code and as the paper has
    it; gradients of one loss, and of few weights."""
    directory = HERE / "flamingo"
    directory.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("openflamingo_llama", "flamingo_paper"):
            run("flamingo_reference", "--out", scratch, "--part", name)
            oracle = dict(np.load(f"{scratch}/{name}.npz"))
            kept = {key: x for key, x in oracle.items() if FLAMINGO.fullmatch(key)}
            np.savez_compressed(directory / f"{name}.npz", **kept)
    print(directory, sum(f.stat().st_size for f in directory.rglob("*") if f.is_file()), "bytes")


def make_kosmos() -> None:
    """KOSMOS-1, whose xPos no library has: the oracle's own statement of it, from a tower's features on."""
    directory = HERE / "kosmos1"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    with tempfile.TemporaryDirectory() as scratch:
        run("flamingo_reference", "--part", "kosmos1", "--out", scratch)
        oracle = dict(np.load(f"{scratch}/kosmos1.npz"))
    meta = json.loads(str(oracle["meta"]))
    tokens, width = meta["tokens"], oracle["in/vision_features"].shape[-1]
    text = {"vocab_size": len(oracle["param/decoder.embed_tokens.weight"]), "embed_dim": meta["dim"]}
    text |= {"layers": meta["layers"], "ffn_dim": meta["ffn"], "attention_heads": meta["heads"]}
    text |= {f"{name}_token_id": tokens[name] for name in ("bos", "pad", "eos")}
    vision = {"hidden_size": width, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    raw = {
        "model_type": "kosmos-1",
        "latent_query_num": meta["latents"],
        "image_begin_token_id": tokens["boi"],
        "image_end_token_id": tokens["eoi"],
        "text_config": text,
        "vision_config": vision | {"image_size": 14, "patch_size": 7},
    }
    (directory / "config.json").write_text(json.dumps(raw, indent=1))

    def published(name: str) -> str:
        return name.replace("decoder.", "text_model.model.").replace("connector.", "image_to_text_projection.")

    shapes = checkpoints.tensor_shapes(directory)
    tensors = {name: checkpoints.values(name, shape, 0) for name, shape in shapes.items()}
    own = {published(name.removeprefix("param/")): x for name, x in oracle.items() if name.startswith("param/")}
    assert own.keys() == {name for name in tensors if not name.startswith("vision_model.")}
    save_file(tensors | own, directory / "model.safetensors", metadata={"format": "pt"})
    places = ("in/ids", "in/mask", "in/prompt_ids", "in/prompt_mask", "in/vision_features", "out/picture_embeddings")
    answers = ("out/logits", "out/labels_text", "out/loss_text", "out/greedy_ids")
    expected = {name.partition("/")[2]: oracle[name] for name in (*places, *answers)}
    start = "grad/text/"
    expected |= {f"grad/{published(name[len(start) :])}": x for name, x in oracle.items() if name.startswith(start)}
    bounds = meta["start_bounds_layer_0_drawn_and_xavier"]
    expected |= {f"bound/{published(name)}": np.float32(drawn) for name, (drawn, _) in bounds.items()}
    np.savez_compressed(directory / "expected.npz", **expected)
    print(directory, sum(f.stat().st_size for f in directory.rglob("*") if f.is_file()), "bytes")


def make_towers() -> None:
    """BEATs and PointBERT as the oracle states them, with two seeds, and a Q-Former of transformers behind each."""
    directory = HERE / "towers"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    oracle = importlib.import_module("modality_towers_reference")
    runs = {
        "beats": (lambda config, w, x: oracle.beats(config, w, x), "fbank"),
        "pointbert": (lambda config, w, x: oracle.point_bert(config, w, x)[1][:, None], "points"),
    }
    with tempfile.TemporaryDirectory() as scratch:
        for seed in (0, 1):
            run("modality_towers_reference", "--out", scratch, "--only", ",".join(runs), "--seed", str(seed))
            for kind, (tower, key) in runs.items():
                found = dict(np.load(f"{scratch}/{kind}.npz"))
                config = json.loads(str(found["meta"]))["config"]
                inputs = reference.torch.from_numpy(found[key]).double().requires_grad_()
                weights = {n[2:]: reference.torch.from_numpy(x).double() for n, x in found.items() if n[:2] == "w/"}
                found |= modality_qformer.reference(tower(config, weights, inputs), inputs)
                wanted = [name for name in found if TOWERS.fullmatch(name) and (seed == 0 or not ONCE.match(name))]
                kept = {name: found[name] for name in wanted}
                np.savez_compressed(directory / f"{kind}_{seed}.npz", **kept)
    print(directory, sum(f.stat().st_size for f in directory.rglob("*") if f.is_file()), "bytes")


STATED = {"kosmos1": make_kosmos, "flamingo": make_flamingo, "towers": make_towers}
"""Directories of what the oracle states by itself, because no library has it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oracle", required=True, type=Path, help="folder of make_tiny_hf.py and hf_reference.py")
    parser.add_argument(
        "kinds", nargs="*", default=[*KINDS, *STATED], help="of the directories beside this file; default all"
    )
    sys.dont_write_bytecode = True  # the oracle's folder is not ours
    args = parser.parse_args()
    sys.path.insert(0, str(args.oracle))
    importlib.import_module("make_tiny_hf").SCALES.update({"golden": SIZES, "golden-small": SMALL})
    reference.torch.set_num_threads(1)
    for kind in args.kinds:
        STATED[kind]() if kind in STATED else make(kind)


if __name__ == "__main__":
    main()
