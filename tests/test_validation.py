"""The loss of held-out records, against `ib.loss` of all of them at once."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import instructblip_jax as ib
from instructblip_jax import validation
from instructblip_jax.data.prepared import open_set
from instructblip_jax.data.visits import drawn
from instructblip_jax.datasets.digits.templates import TEMPLATES
from instructblip_jax.datasets.prepare.write import write
from instructblip_jax.mesh import make_mesh
from instructblip_jax.objectives.term import Term

SHAPES = [(24, 12), (40, 24)]


@pytest.fixture(scope="module")
def processor(world):
    return ib.Processor.from_pretrained(world / "model")


@pytest.fixture(scope="module")
def sources(world):
    return validation.held_out(str(world / "sets"), ["caption", "count:train", "digit_at:train+validation"])


def by_hand(model, processor, source, seed, indices, blank=False) -> float:
    """Mean over the response tokens of all records, in one batch."""
    records = [source[index] for index in indices]
    texts = [
        drawn(record, np.random.default_rng((seed, n)), TEMPLATES) for n, record in zip(indices, records, strict=True)
    ]
    batch = processor([record.images[0] for record in records], *zip(*texts, strict=True))
    if blank:
        batch["pixel_values"] = np.zeros_like(batch["pixel_values"])
    return float(ib.loss(model, batch)[0])


def test_only_what_is_not_trained_on_is_held_out(sources, world):
    assert {name: (source.split, len(source)) for name, source in sources.items()} == {
        "caption": ("validation", 8),
        "count": ("validation", 8),
    }


@pytest.mark.parametrize(("sizes", "rows"), [((1, 1, 1), 3), ((2, 2, 2), 8)])
def test_it_is_the_mean_over_all_tokens_on_any_mesh_in_any_batches(world, processor, sources, sizes, rows):
    mesh = make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])
    model = ib.InstructBlip.from_pretrained(world / "model", mesh, "float32")
    alone = ib.InstructBlip.from_pretrained(world / "model", dtype="float32")
    options = {"rows": rows, "shapes": SHAPES, "seed": 3}
    validate = validation.prepare(model, processor, sources, TEMPLATES, **options)
    with jax.set_mesh(mesh):
        found, again = validate(model.train), validate(model.train)
    assert found == again  # no dropout, the same words
    want = {name: by_hand(alone, processor, source, 3, range(8)) for name, source in sources.items()}
    assert found == pytest.approx(want, rel=1e-5)
    assert not any(x.is_deleted() for x in model.train.values())


def test_blank_pictures_long_texts_and_large_splits(world, processor, sources, monkeypatch, capsys):
    """Without seeing, as training may be. What is too long is told. Of many records some are taken, from all over."""
    model = ib.InstructBlip.from_pretrained(world / "model", dtype="float32")
    options = {"rows": 4, "seed": 3, "blank_image": True}
    monkeypatch.setattr(validation, "RECORDS", 3)
    validate = validation.prepare(model, processor, sources, TEMPLATES, shapes=SHAPES, **options)
    want = by_hand(model, processor, sources["count"], 3, [0, 3, 7], blank=True)
    with jax.set_mesh(model.mesh):
        assert validate(model.train)["count"] == pytest.approx(want, rel=1e-5)
    assert capsys.readouterr().out == ""
    assert validation.prepare(model, processor, sources, TEMPLATES, shapes=[(1, 1)], **options) is None
    assert capsys.readouterr().out == "".join(
        f"validation of {name}: 3 records left out, too long or without an answer\n" for name in ("caption", "count")
    )


def test_records_with_more_pictures_than_a_batch_has_room_for_are_left_out(sources, processor, monkeypatch):
    def no_room(kinds):
        raise ValueError("config.data.pictures goes up to 5")

    monkeypatch.setattr(processor, "static_kinds", no_room)
    held = validation.HeldOut(sources["count"], processor, TEMPLATES, rows=2, shapes=SHAPES, seed=0, own=np.arange(2))
    assert held.taken == 0
    assert held.left_out > 0


def test_a_split_without_answers_has_no_loss(world, processor, tmp_path, capsys):
    source = open_set(world / "sets", "count", "validation")
    write(tmp_path, "count", {"validation": lambda: (replace(source[n], answers=()) for n in range(4))})
    held = validation.HeldOut(
        open_set(tmp_path, "count", "validation"),
        processor,
        TEMPLATES,
        rows=2,
        shapes=SHAPES,
        seed=0,
        own=np.arange(2),
    )
    assert (held.taken, held.left_out, list(held)) == (0, 4, [])


def test_the_terms_of_a_loss_are_means_over_all_records(world, monkeypatch):
    """Each term over its own count, whatever batches they come in, added with their weights."""
    model = ib.InstructBlip.from_pretrained(world / "model", dtype="float32")
    model.memory = {"scale": np.float32(2)}
    batches = [{"a": np.float32([1, 2]), "b": np.float32([3, 5])}, {"a": np.float32([6, 3]), "b": np.float32([1, 0])}]

    class Stub:
        def loss(self, batch, *, memory, step):
            counts = (batch["b"] > 0).astype(np.float32)
            terms = {
                "one": Term(batch["a"] * memory["scale"], np.ones(2, np.float32)),
                "other": Term(batch["b"], counts, 0.5),
            }
            return terms, memory

    monkeypatch.setattr(validation, "merge", lambda graph, train, frozen: Stub())
    validate = validation.Validation(model, {"set": batches, "nothing": []}, 2)
    assert validate(model.train) == {"set": 2 * (1 + 2 + 6 + 3) / 4 + 0.5 * (3 + 5 + 1) / 3, "nothing": 0.0}
