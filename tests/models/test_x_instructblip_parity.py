"""X-InstructBLIP against a statement of it on PyTorch, live, on random checkpoints. Skipped where torch is missing."""

import json

import checkpoints
import numpy as np
import pytest

import instructblip_jax as ib

pytest.importorskip("torch", reason="the live reference is PyTorch, which is not installed")
import x_reference
import x_toys

CLEAN = {"prefix": "USER: ", "postfix": "\nASSISTANT:", "clean": True}
TEXTS = ["which digit is red ?", "is there a 7 above the blue 3 ?", "what is this ?"]
ANSWERS = ["the 3", "yes", "a blue 5 and a 7"]
KINDS = {"image": "image", "video": "frame", "audio": "audio", "pc": "points"}
BEAMS = {1: 1, 2: 3}
"""Media of the first row -> beams: greedy for the one case, beam search for the other."""
CASES = {"original": ({}, [["audio"]] * 3), "clean": (CLEAN, [["image", "pc"], ["pc", "image", "pc"], ["pc"]])}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return x_toys.write_model(tmp_path_factory.mktemp("x") / "model")


@pytest.fixture(scope="module", params=CASES)
def case(request, directory):
    """(model, its reference, a batch, the same rows for the reference)."""
    form, shown = CASES[request.param]
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prompt": form}))
    model, processor = ib.from_pretrained(directory, dtype="float32"), ib.Processor.from_pretrained(directory)
    rng = np.random.default_rng(0)
    media = [[(KINDS[name], x_toys.medium(name, rng)) for name in row] for row in shown]
    rows = [
        processor.encode(text, answer, pictures=tuple(kind for kind, _ in row))
        for text, answer, row in zip(TEXTS, ANSWERS, media, strict=True)
    ]
    batch = {**processor.stack([processor.media(row) for row in media]), **processor.pad(rows)}
    tokens = {name: np.asarray(x) for name, x in model.encode(batch).items()}
    asked = []
    for n, row in enumerate(shown):
        own = [(name, tokens[name][n, row[:place].count(name)]) for place, name in enumerate(row)]
        asked.append(x_reference.Asked(own, TEXTS[n], ANSWERS[n]))
    return model, x_reference.Reference(directory), batch, asked


def test_logits_loss_and_gradients_whichever_side_the_padding_is_on(case):
    model, reference, batch, asked = case
    want = reference.loss(asked)
    want.backward()
    for given in (batch, checkpoints.left_padded(batch)):
        logits = np.asarray(model(given))
        loss, grads = ib.gradients(model, given)
        assert float(loss) == pytest.approx(want.item(), rel=1e-5)
        for n, row in enumerate(asked):
            answered = np.flatnonzero(given["labels"][n] != -100)
            expected = reference.answered(row)[0].detach().numpy()
            np.testing.assert_allclose(logits[n, answered[0] - 1 : answered[-1] + 1], expected, rtol=0, atol=1e-4)
        assert set(grads) == set(reference.trained)
        read = {name for name in grads if name.split("_")[0] in {m for row in asked for m, _ in row.media}}
        for name in read:
            other = reference.p[name].grad.numpy()
            # The gradient of a key's bias is zero up to rounding, and where there is one key those of queries, too.
            assert np.abs(grads[name] - other).max() <= max(1e-4 * np.abs(other).max(), 1e-7), name
        assert all(np.abs(grads[name]).max() == 0 for name in grads.keys() - read)


@pytest.mark.long
def test_the_tokens_of_answers(case):
    model, reference, batch, asked = case
    options = {"max_new_tokens": 8, "num_beams": BEAMS[len(asked[0].media)]}
    texts = ("input_ids", "attention_mask")
    prompts = {key: x for key, x in batch.items() if key not in (*texts, "labels")}
    lengths = [(batch["labels"][n] != -100).sum() for n in range(len(asked))]
    mask = batch["attention_mask"].copy()
    for n, length in enumerate(lengths):
        mask[n, mask[n].sum() - length :] = 0
    prompts |= {"input_ids": batch["input_ids"], "attention_mask": mask}
    for given in (prompts, checkpoints.left_padded(prompts)):
        found = ib.generate_ids(model, given, **options)
        for own, row in zip(found, asked, strict=True):
            want = reference.generate(row, **options)
            assert own[: len(want)].tolist() == want
            assert set(own[len(want) :].tolist()) <= {model.config.pad_id}
