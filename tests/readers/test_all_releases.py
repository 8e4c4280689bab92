"""Properties of all readers: counts, a stable order, unique uids, round trips, errors that name missing files."""

import pytest
from fixtures import ROOTS

from instructblip_jax.data import templates
from instructblip_jax.data.record import DOCUMENT, TASKS, Record
from instructblip_jax.datasets import prompts
from instructblip_jax.datasets.draft import Draft, Skip
from instructblip_jax.datasets.readers import instructions, pretraining
from instructblip_jax.datasets.readers.releases import RELEASES


@pytest.mark.parametrize("name", RELEASES)
def test_counts_order_and_round_trip(layouts, name):
    world, counts = layouts
    got, uids = {}, []
    for split, make in RELEASES[name].splits(world / ROOTS.get(name, name), ()).items():
        rows = list(make())
        assert rows == list(make())
        drafts = [row for row in rows if isinstance(row, Draft)]
        got[split] = len(drafts)
        for draft in drafts:
            uids.append(draft.record.uid)
            assert (draft.record.dataset, draft.record.split) == (name, split)
            assert draft.record.task in TASKS
            assert draft.record.uid.startswith(f"{name}/{split}/")
            assert Record.from_json(draft.record.to_json(), ()) == draft.record
            assert draft.where.startswith(str(world))
    assert got == counts[name]
    assert len(set(uids)) == len(uids)


DOCUMENTS = {"mmc4", "obelics"}


def test_there_are_26_and_those_of_llava_of_scienceqas_reasons_of_pairs_of_texts_of_frozen_and_of_x():
    assert len(RELEASES) == 26 + 4 + 3 + 11 + 4 + 4 + 17
    assert set(prompts.TRAINING) == set(RELEASES) - DOCUMENTS
    trained_on = {"capfilt", "vg_qa", *pretraining.RELEASES, *instructions.RELEASES, *DOCUMENTS}
    trained_on |= {"wavcaps", "audioset", "audiocaps_qa", "webvid"}
    trained_on |= {name for name in RELEASES if name.startswith("llava")}
    assert set(prompts.PROMPTS) == set(RELEASES) - trained_on


@pytest.mark.parametrize("name", RELEASES)
def test_absent_files_are_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"\.(json|csv|tar|parquet|txt)") as raised:
        RELEASES[name].splits(tmp_path, ())
    assert str(tmp_path) in str(raised.value)


@pytest.mark.parametrize("name", RELEASES)
def test_expected_sizes_are_of_splits_that_readers_have(layouts, name):
    world, _ = layouts
    assert set(RELEASES[name].expected) <= set(RELEASES[name].splits(world / ROOTS.get(name, name), ()))


@pytest.mark.parametrize("name", RELEASES)
def test_prompts_fit_their_records(world, name):
    """Every template and prompt can be filled from every record and from each turn of a dialogue, and the instruction
    holds what is asked. Only IconQA's blanks have no options, which its templates name: they are refused."""
    filled = int(name in DOCUMENTS)  # which ask nothing
    for split, make in RELEASES[name].splits(world / ROOTS.get(name, name), ()).items():
        for row in make():
            if isinstance(row, Skip) or row.record.task == DOCUMENT:
                continue
            if split.startswith("fill_in_blank"):
                with pytest.raises(
                    ValueError, match=r"set 'iconqa': template .* has the field options; slots: question"
                ):
                    templates.check(prompts.TRAINING, row.record)
                continue
            turns = range(len(row.record.turns))
            for record in [templates.at_turn(row.record, turn) for turn in turns] or [row.record]:
                templates.check(prompts.TRAINING, record)
                templates.check({name: [prompts.PROMPTS.get(name, "")]}, record)
                for choice in range(len(prompts.TRAINING[name])):
                    said = templates.instruction(prompts.TRAINING, record, choice)
                    assert said
                    assert (
                        record.slots.get("question", "") in said or "{question}" not in prompts.TRAINING[name][choice]
                    )
                filled += 1
    assert filled


def test_how_many_templates_there_are():
    assert [len(set(prompts.TRAINING[name])) for name in ("capfilt", "ocrvqa", "vqav2_qg")] == [13, 10, 6]
    assert all(template.startswith("OCR tokens: {ocr}. ") for template in prompts.TRAINING["textcaps"])
