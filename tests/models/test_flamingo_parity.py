"""Flamingo against plain statements of the open code and of the paper (tests/goldens/make.py)."""

import json
from pathlib import Path

import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import instructblip_jax as ib
from instructblip_jax.convert import save
from instructblip_jax.models.bridges.gated import sight
from instructblip_jax.models.layers import stack
from instructblip_jax.objectives.term import mean
from instructblip_jax.systems.build import merge
from instructblip_jax.systems.flamingo import pictures_after, pictures_before

GOLDENS = Path(__file__).parents[1] / "goldens" / "flamingo"
KNOWN, IMAGE, CHUNK, END = 40, 41, 40, 1
VISION = {"hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2}
RESAMPLERS = (
    {"latents": 5, "depth": 2, "heads": 4, "head_size": 8},
    {"latents": 4, "depth": 2, "heads": 3, "head_size": 8},
)
ROUNDING = 2e-5


class Golden:
    """A directory in our layout with the golden's weights, and what is to be computed with them."""

    def __init__(self, directory: Path, name: str, *, resampler: dict, blocks: dict):
        self.want = dict(np.load(GOLDENS / f"{name}.npz"))
        param = {key.removeprefix("param/"): x for key, x in self.want.items() if key.startswith("param/")}
        raw = {
            "model_type": "flamingo",
            "vision_config": VISION | {"image_size": 14, "patch_size": 7},
            "text_config": {
                "model_type": "llama",
                "vocab_size": KNOWN + 3,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "eos_token_id": END,
            },
            "resampler_config": resampler,
            "cross_attention_config": {"every": 2, "head_size": 8} | blocks,
            "known_tokens": KNOWN,
            "added_tokens": 3,
            "image_token_id": IMAGE,
            "chunk_token_id": CHUNK,
        }
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps(raw))
        shapes = checkpoints.tensor_shapes(directory)
        given = {
            name if name.startswith(("perceiver", "gated")) else f"language_model.{name}": param[name] for name in param
        }
        given["added_tokens.weight"] = param["model.embed_tokens.weight"][KNOWN:]
        given["added_head.weight"] = param["lm_head.weight"][KNOWN:]
        vision = {name: np.zeros(shape, np.float32) for name, shape in shapes.items() if name.startswith("vision")}
        save_file({name: given[name] for name in shapes if name in given} | vision, directory / "model.safetensors")
        self.directory = directory
        self.model = self.load()

    def load(self, **options):
        return ib.from_pretrained(self.directory, dtype="float32", **options)

    def run(self, function, *args, model=None, zero=()):
        """``function(system, *args)``, jitted; parameters whose paths end with one of ``zero`` are 0."""
        model = model or self.model
        train = {path: x * (not path.endswith(zero)) if zero else x for path, x in model.train.items()}
        with jax.set_mesh(model.mesh):
            return jax.jit(lambda train, frozen, args: function(merge(model.graph, train, frozen), *args))(
                train, model.frozen, args
            )

    def batch(self, ids, mask, labels=None):
        arrays = {"input_ids": self.want[ids], "attention_mask": self.want[mask]}
        arrays |= {"labels": self.want[labels]} if labels else {}
        return {name: x.astype(np.int32) for name, x in arrays.items()}


def logits_of(system, features, batch):
    return system._to_logits(system.hidden({"image": system._resampled(features)}, batch))


def loss_of(system, features, batch, key=None):
    system.encode = lambda batch: {"image": system._resampled(features)}
    return mean(system.loss(batch, memory={}, step=0, key=key)[0])


def close(got, want, bound=ROUNDING):
    np.testing.assert_allclose(got, want, atol=bound * max(1.0, np.abs(want).max()), rtol=0)


@pytest.fixture(scope="module")
def open_code(tmp_path_factory):
    blocks = {"at": 1, "heads": 3, "activation": "gelu"}
    return Golden(
        tmp_path_factory.mktemp("golden") / "open", "openflamingo_llama", resampler=RESAMPLERS[0], blocks=blocks
    )


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    act = {"activation": "squared_relu"}
    return Golden(
        tmp_path_factory.mktemp("golden") / "paper",
        "flamingo_paper",
        resampler=RESAMPLERS[1] | act | {"frames": 8},
        blocks={"heads": 4} | act,
    )


def test_pictures_of_tokens_latents_and_a_block(open_code):
    want = open_code.want
    batch = open_code.batch("in/document_ids", "in/document_mask")
    picture = pictures_before(jnp.asarray(batch["input_ids"]), IMAGE, END)
    real = batch["attention_mask"] == 1
    np.testing.assert_array_equal(np.asarray(picture)[real], want["out/picture_of_token"][real])
    picture = jnp.asarray(want["out/picture_of_token"])

    def block(system, features, x):
        latents = system._resampled(features)
        (first, _) = stack._layers(system.bridge.layers)
        keys, values = first.keys_values(latents.reshape(3, -1, 24))
        rules = [first(x, keys, values, sight(picture, 3, 5, earlier=earlier)) for earlier in (False, True)]
        return latents, rules

    latents, (latest, earlier) = open_code.run(block, want["in/vision_features"], want["in/block_input"])
    close(latents, want["out/latents"])
    close(latest, want["out/block_eq"])
    seen = np.asarray(picture) > 0  # the open code lets tokens that see none read the mean of all pictures
    close(earlier[seen], want["out/block_ge"][seen])
    close(earlier[~seen], latest[~seen])


def test_logits_loss_and_gradients_of_both_sets(open_code):
    want = open_code.want
    features = want["in/vision_features"]
    batch = open_code.batch("in/document_ids", "in/document_mask", "out/document_labels")
    real = batch["attention_mask"] == 1
    close(open_code.run(logits_of, features, batch)[real], want["out/logits"][real])
    everything = open_code.load(sees="all")  # of a row that begins with a picture
    close(open_code.run(logits_of, features, batch, model=everything)[0][real[0]], want["out/logits_ge"][0][real[0]])
    closed = open_code.run(logits_of, features, batch, zero=("_gate",))
    alone = open_code.run(lambda system, batch: system._to_logits(system.llm.run(*system.prompt({}, batch))), batch)
    np.testing.assert_array_equal(closed[real], alone[real])
    close(alone[real], want["out/logits_lm_alone"][real])

    model, system = open_code.model, lambda train, frozen: merge(open_code.model.graph, train, frozen)
    with jax.set_mesh(model.mesh):
        loss, grads = jax.jit(
            jax.value_and_grad(lambda train, frozen: loss_of(system(train, frozen), features, batch))
        )(model.train, model.frozen)
    assert float(loss) == pytest.approx(float(want["out/loss_documents"]), rel=1e-5)
    found = dict(save.tensors(model.family.rules(model.config), grads))
    of_added = want["grad/documents/model.embed_tokens.weight"][KNOWN:]
    close(found["added_tokens.weight"], of_added, 1e-4)
    checked = 0
    for name, x in want.items():
        if name.startswith("grad/documents/") and "embed_tokens" not in name:
            close(found[name.removeprefix("grad/documents/")], x, 1e-4)
            checked += 1
    assert checked == 15

    pairs = open_code.batch("in/pair_ids", "in/pair_mask", "out/pair_labels")
    loss = open_code.run(loss_of, want["in/pair_vision_features"], pairs)
    assert float(loss) == pytest.approx(float(want["out/loss_pairs"]), rel=1e-5)


def test_generation_and_candidates(open_code):
    """Left padding; new tokens see the prompt's last picture, and never are one."""
    want, model = open_code.want, open_code.model
    batch = open_code.batch("in/prompt_ids", "in/prompt_mask")
    media = {"image": open_code.run(lambda system, x: system._resampled(x), want["in/prompt_vision_features"])}
    length = batch["input_ids"].shape[1]
    got = ib.generate_ids(model, batch, media=media, max_new_tokens=8, min_new_tokens=8, eos_token_id=KNOWN + 2)
    np.testing.assert_array_equal(got, want["out/greedy_ids"][:, length:])
    answers = [[10], [11, 13], [14, 15, 16]]
    ids, counted = np.zeros((len(got), 3, 3), np.int32), np.zeros((len(got), 3, 3), bool)
    for n, answer in enumerate(answers):
        ids[:, n, : len(answer)], counted[:, n, : len(answer)] = answer, True
    sums = model.log_likelihood(model.prefill(media, batch), ids, counted)
    close(sums / [1, 2, 3], want["out/candidate_mean_log_prob"])


def test_the_papers_form(paper):
    """A block before the first layer of each group, squared ReLU, frames, and the next picture."""
    want = paper.want
    ids = jnp.asarray(want["in/ids"].astype(np.int32))
    real = want["in/mask"] == 1
    np.testing.assert_array_equal(pictures_before(ids, IMAGE, END)[real], want["out/picture_previous"][real])
    np.testing.assert_array_equal(pictures_after(ids, IMAGE, END)[real], want["out/picture_next"][real])
    for count in (8, 30):
        latents = paper.run(lambda system, x: system._resampled(x), want[f"in/video_features_{count}"])
        close(latents, want[f"out/latents_{count}_frames"])
    batch = paper.batch("in/ids", "in/mask", "out/labels")
    features = want["in/vision_features"]
    close(paper.run(logits_of, features, batch)[real], want["out/logits_previous"][real])
    ahead = paper.load(next_picture=1.0)
    for model, key, name in ((ahead, None, "previous"), (ahead, jax.random.key(0), "next")):
        loss = paper.run(loss_of, features, batch, key, model=model)
        assert float(loss) == pytest.approx(float(want[f"out/loss_{name}"]), rel=1e-5)


def test_documents_end_what_is_seen():
    """A token sees no picture of another document, before or behind it."""
    ids = jnp.array([[5, IMAGE, 6, END, 7, IMAGE, 8, END, 9]])
    np.testing.assert_array_equal(pictures_before(ids, IMAGE, END)[0], [0, 1, 1, 1, 0, 2, 2, 2, 0])
    np.testing.assert_array_equal(pictures_after(ids, IMAGE, END)[0], [1, 1, 0, 0, 2, 2, 0, 0, 0])
