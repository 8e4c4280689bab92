"""The paper's ablation: a Q-Former that does not see the instruction, which the language model still reads."""

import checkpoints
import numpy as np
import pytest
import training

import instructblip_jax as ib


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return checkpoints.write(tmp_path_factory.mktemp("model"), training.config_json(dropout=0.0), seed=61)


@pytest.fixture(scope="module")
def batches():
    """Two that differ in what the Q-Former reads alone, and one that differs in what the language model reads."""
    batch = checkpoints.batch(training.config_json(), rows=4, seed=61)
    ids, read = batch["qformer_input_ids"], batch["input_ids"]
    return batch, batch | {"qformer_input_ids": ids[::-1].copy()}, batch | {"input_ids": read[::-1].copy()}


@pytest.mark.parametrize("instruct", [True, False])
def test_only_an_instructed_qformer_reads_the_instruction(directory, batches, instruct):
    model = ib.InstructBlip.from_pretrained(directory, dtype="float32", instruct_qformer=instruct)
    one, other, third = (np.asarray(model(batch)) for batch in batches)
    assert np.array_equal(one, other) != instruct
    assert not np.allclose(one, third)
