"""Three hundred hostile requests, among sound ones: each is answered, none by a failure, and the sound ones as ever."""

import json
import random

import hostile
import pytest
from serving_client import about, png, together

FINE = {200, 400, 404, 413, 422, 429}


def send(digits, seed):
    path, data, headers = hostile.request(seed)
    status, _, said = digits.ask("POST", path, data, **headers)
    return seed, status, said


def check(digits, seeds):
    text, picture = "describe the picture", png(3)
    want = digits.text(about(text, picture))
    found = together(lambda seed: send(digits, seed), seeds)
    assert digits.text(about(text, picture)) == want
    wrong = {seed: (status, said[:200]) for seed, status, said in found if status not in FINE}
    assert not wrong
    for seed, status, said in found:
        if status != 200:
            assert json.loads(said)["error"]["message"], seed
            assert b"Traceback" not in said
    assert digits.engine.busy == 0
    return {status for _, status, _ in found}


def test_a_few(digits):
    assert check(digits, range(24)) >= {200, 400}


@pytest.mark.long
def test_three_hundred(digits):
    seeds = list(range(300))
    random.Random(0).shuffle(seeds)
    for start in range(0, 300, 30):
        check(digits, seeds[start : start + 30])
    held = digits.limits.bytes * 16
    assert digits.face.budget._left == held  # nothing of them is held
