"""Idefics-1 against transformers on PyTorch, live, on fresh random checkpoints."""

import json

import flamingo_files
import numpy as np
import pytest
import toys
from PIL import Image
from safetensors.numpy import load_file, save_file

import instructblip_jax as ib

pytest.importorskip("torch", reason="the live reference is transformers on PyTorch, which is not installed")
import checkpoints
from reference import torch, transformers

FORMS = {
    "published": {},  # as the 9B: norms of heads, one gate for all channels, a block before each group's first layer
    "other": {
        "qk_layer_norms": False,
        "alpha_type": "vector",
        "cross_layer_interval": 1,
        "perceiver_config": {"resampler_depth": 2, "resampler_head_dim": 8, "resampler_n_heads": 2},
    },
    "no resampler": {"use_resampler": False},
}
PICTURES = [1, 2, 0, 4]
TRAINED = "resampler_and_xattn"


def write(directory, **fields):
    """A directory with everything, the weights in the names of transformers' modules, which are those of the files."""
    directory.mkdir()
    toys.write_processor(directory)
    words, _ = toys.write_tokenizers(directory, "idefics")
    raw = flamingo_files.idefics_json(words, **fields)
    side = raw["vision_config"]["image_size"]
    settings = {"image_size": side, "image_processor_type": "IdeficsImageProcessor"}
    (directory / "preprocessor_config.json").write_text(json.dumps(settings))
    (directory / "config.json").write_text(json.dumps(raw))
    model = transformers.IdeficsForVisionText2Text(transformers.IdeficsConfig.from_pretrained(directory))
    shapes = {name: tuple(x.shape) for name, x in model.state_dict().items() if not name.endswith("position_ids")}
    tensors = {name: checkpoints.values(name, shape, 4) for name, shape in shapes.items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def load(directory):
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model, report = transformers.IdeficsForVisionText2Text.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    wrong = {key: report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if report[key]}
    assert not wrong, wrong
    return model.eval()


def rows_of(config, counts, seed):
    """Token rows with so many pictures at random places; the last row's second document begins behind an end token."""
    rng, rows = np.random.default_rng(seed), []
    for n, count in enumerate(counts):
        words = rng.integers(3, config.fake_token_id, rng.integers(4, 10))
        if n == len(counts) - 1:
            words[2] = 2
        pieces = np.split(words, np.sort(rng.integers(0, len(words) + 1, count)))
        around = [config.fake_token_id, config.image_token_id, config.fake_token_id]
        rows.append(np.concatenate([[1], pieces[0], *(x for piece in pieces[1:] for x in (around, piece))]))
    return [row.astype(np.int32) for row in rows]


def batch_of(config, counts, seed, side):
    rows = rows_of(config, counts, seed)
    longest = max(map(len, rows))
    ids, mask = np.zeros((2, len(rows), longest), np.int32)
    for own, there, row in zip(ids, mask, rows, strict=True):
        place = slice(longest - len(row), None) if side == "left" else slice(len(row))
        own[place], there[place] = row, 1
    rng, size = np.random.default_rng(seed), config.vision.image_size
    pixels = rng.standard_normal((len(rows), max(counts), size, size, 3)).astype(np.float32)
    for own, count in zip(pixels, counts, strict=True):
        own[count:] = 0
    return {"pixel_values": pixels, "input_ids": ids, "attention_mask": mask}


def inputs(config, batch):
    """Our batch in their form: channels first, and the mask of pictures that their processor makes."""
    seen = np.zeros((*batch["input_ids"].shape, batch["pixel_values"].shape[1]), int)
    for row, (ids, real) in enumerate(zip(batch["input_ids"], batch["attention_mask"], strict=True)):
        number, over = -1, False
        for place in np.flatnonzero(real):
            if ids[place] == config.image_token_id:
                number, over = number + 1, False
            if number >= 0 and not over:
                seen[row, place, number] = 1
            over |= ids[place] == config.document_end
    positions = np.maximum(batch["attention_mask"].cumsum(1) - 1, 0)
    arrays = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "position_ids": positions}
    theirs = {name: torch.from_numpy(x).long() for name, x in (arrays | {"image_attention_mask": seen}).items()}
    return theirs | {"pixel_values": torch.from_numpy(np.moveaxis(batch["pixel_values"], -1, 2).copy())}


def close(got, want, bound=2e-5):
    np.testing.assert_allclose(got, want, atol=bound * max(1.0, np.abs(want).max()), rtol=0)


OTHERS_HOLD_IT = ("other", "no resampler")
"""Forms that run with the marker `reference`."""


@pytest.fixture(
    scope="module",
    params=[pytest.param(form, marks=pytest.mark.reference) if form in OTHERS_HOLD_IT else form for form in FORMS],
)
def pair(request, tmp_path_factory):
    directory = write(tmp_path_factory.mktemp("idefics") / "model", **FORMS[request.param])
    return directory, ib.from_pretrained(directory, dtype="float32"), load(directory)


def test_features_logits_loss_and_gradients(pair):
    _, model, theirs = pair
    config = model.config
    for side in ("left", "right"):
        batch = batch_of(config, PICTURES, 7, side)
        given = inputs(config, batch)
        with torch.no_grad():
            features = theirs.model.vision_model(pixel_values=given["pixel_values"].flatten(0, 1)).last_hidden_state
            if config.resampler is not None:
                features = theirs.model.perceiver_resampler(features)
        close(np.asarray(model.encode(batch)["image"]).reshape(features.shape), features.numpy())
        theirs.zero_grad(set_to_none=True)
        logits = theirs(**given).logits
        real = batch["attention_mask"] == 1
        close(np.asarray(model(batch))[real], logits.detach().numpy()[real])
    labels = np.where(real & (batch["input_ids"] != config.image_token_id), batch["input_ids"], -100)
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), torch.from_numpy(labels[:, 1:]).long().flatten(), ignore_index=-100
    )
    loss.backward()
    got, grads = ib.gradients(model, batch | {"labels": labels.astype(np.int32)})
    assert float(got) == pytest.approx(loss.item(), rel=1e-5)
    want = {name: x.grad.numpy() for name, x in theirs.named_parameters() if x.grad is not None}
    trained = {name for name in want if "perceiver" in name or "gated" in name or "additional" in name}
    assert grads.keys() == trained
    for name, x in grads.items():
        # The keys' own bias moves all scores of a query alike: its gradient is zero but for rounding.
        assert np.abs(x - want[name]).max() <= 1e-4 * max(1e-3, np.abs(want[name]).max()), name


@pytest.mark.parametrize("beams", [1, 3])
def test_tokens(pair, beams):
    _, model, theirs = pair
    batch = batch_of(model.config, PICTURES, 11, "left")
    given, words = inputs(model.config, batch), model.config.forbidden_ids
    del given["position_ids"]
    with torch.no_grad():
        ids = theirs.generate(
            **given, do_sample=False, num_beams=beams, max_new_tokens=10, bad_words_ids=[[word] for word in words]
        ).numpy()
    got = ib.generate_ids(model, batch, num_beams=beams, max_new_tokens=10)
    for ours, other in zip(got, ids[:, batch["input_ids"].shape[1] :], strict=True):
        end = np.flatnonzero(other == 2)
        length = end[0] + 1 if len(end) else len(other)
        np.testing.assert_array_equal(ours[:length], other[:length])


def test_the_processor_is_theirs(pair):
    directory, _, _ = pair
    ours = ib.Processor.from_pretrained(directory)
    image = transformers.IdeficsImageProcessor(image_size=ours.image.height)
    theirs = transformers.IdeficsProcessor(image, transformers.AutoTokenizer.from_pretrained(directory))
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (30 + 9 * n, 50, 3), np.uint8)) for n in range(3)]
    texts = ["<image>is there a 7 ?<image> <image>which digit ?", "what is above the 3 ?", "a 3 <image>"]
    given = [[pictures[0], "is there a 7 ?", pictures[1], pictures[2], "which digit ?"]]
    given += [["what is above the 3 ?"], ["a 3 ", pictures[2]]]
    want = theirs(text=given, padding=True, add_end_of_utterance_token=False, return_tensors="pt")
    got = ours([pictures, [], [pictures[2]]], texts)
    for row, mask, other, real in zip(
        got["input_ids"], got["attention_mask"], want["input_ids"], want["attention_mask"], strict=True
    ):
        np.testing.assert_array_equal(row[mask == 1], other[real == 1].numpy())
    close(np.moveaxis(got["pixel_values"], -1, 2), want["pixel_values"].numpy(), 1e-6)


def test_what_was_read_is_written_bit_for_bit(pair, tmp_path):
    directory, model, _ = pair
    model.save_pretrained(tmp_path / "out")
    there, here = (load_file(d / "model.safetensors") for d in (directory, tmp_path / "out"))
    assert checkpoints.leaves_equal(there, here)
    load(tmp_path / "out")
