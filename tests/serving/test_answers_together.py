"""Answers that are written together are those that are written alone."""

import numpy as np
import pytest
from serving_client import about, png, together

import instructblip_jax as ib

TEXTS = ("which digit is top-left ?", "describe the picture", "list all digits with place and colour")
ASKED = [(png(n % 5), TEXTS[n % 3]) for n in range(14)]


def alone(served, picture, text, **options):
    return ib.generate(served.model, served.processor, picture, text, **({"max_new_tokens": 16} | options))[0]


@pytest.fixture(scope="module")
def greedy(digits):
    return [alone(digits, *one) for one in ASKED]


def test_the_likeliest_tokens_are_those_of_generate_whoever_else_asks(digits, greedy):
    lengths = [1 + n % 7 for n in range(len(ASKED))]  # they leave at different times
    assert together(lambda one: digits.text(about(one[1], one[0])), ASKED) == greedy
    cut = together(lambda n: digits.text(about(ASKED[n][1], ASKED[n][0]), max_tokens=lengths[n]), range(len(ASKED)))
    assert cut == [alone(digits, *one, max_new_tokens=n) for one, n in zip(ASKED, lengths, strict=True)]
    assert len(set(greedy)) > 3  # the pictures matter


@pytest.mark.parametrize("top_p", [1.0, 0.6])
def test_a_seed_gives_the_answer_of_generate_in_any_company(digits, top_p):
    options = {"temperature": 1.7, "top_p": top_p}
    want = [alone(digits, *one, do_sample=True, top_k=0, seed=n, **options) for n, one in enumerate(ASKED)]
    got = together(lambda n: digits.text(about(ASKED[n][1], ASKED[n][0]), seed=n, **options), range(len(ASKED)))
    assert got == want
    assert got[3] == digits.text(about(ASKED[3][1], ASKED[3][0]), seed=3, **options)


def test_several_answers_have_the_next_seeds(digits):
    picture, text = ASKED[1]
    found = digits.chat(about(text, picture), n=3, seed=5, temperature=2)["choices"]
    want = [digits.text(about(text, picture), seed=seed, temperature=2) for seed in (5, 6, 7)]
    assert [choice["message"]["content"] for choice in found] == want
    assert [choice["index"] for choice in found] == [0, 1, 2]


def test_log_probabilities_are_those_of_rank(digits):
    picture, text = ASKED[1]
    said = digits.chat(about(text, picture), logprobs=True, top_logprobs=3)
    choice = said["choices"][0]
    tokens = choice["logprobs"]["content"]
    want = ib.rank(digits.model, digits.processor, picture, text, [choice["message"]["content"]], include_end=False)
    assert sum(one["logprob"] for one in tokens) == pytest.approx(want.item(), abs=1e-4)
    assert choice["finish_reason"] == "stop"
    assert said["usage"]["completion_tokens"] == len(tokens) + 1  # the end token
    for one in tokens:
        tops = [top["logprob"] for top in one["top_logprobs"]]
        assert tops == sorted(tops, reverse=True)
        assert one["logprob"] == tops[0]
        assert np.exp(tops).sum() <= 1 + 1e-5


def test_an_answer_ends_before_a_stop_text(digits, greedy):
    picture, text = ASKED[1]
    whole = greedy[1]
    for stop in (" and", ["never", whole[3:6]]):
        said = digits.chat(about(text, picture), stop=stop)
        end = whole.index(stop if isinstance(stop, str) else stop[1])
        assert said["choices"][0]["message"]["content"] == whole[:end]
        assert said["choices"][0]["finish_reason"] == "stop"
    cut = digits.chat(about(text, picture), max_tokens=2)
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["usage"]["completion_tokens"] == 2


def test_nothing_is_compiled_once_the_server_is_ready(digits, greedy):
    """Its own requests, after those of every test above; `generate` itself compiles here, before the count."""
    before = digits.metrics.count("compilations")
    digits.metrics.warm()
    together(lambda one: digits.text(about(one[1], one[0])), ASKED)
    digits.chat(about(TEXTS[0], ASKED[0][0]), n=2, temperature=1, top_p=0.5, logprobs=True, top_logprobs=20)
    messages = [{"role": "user", "content": about(TEXTS[0], ASKED[0][0])}]
    for path, more in (("/demo/rank", {"candidates": ["1", "two"]}), ("/demo/look", {})):
        assert digits.post(path, {"messages": messages, **more})[0] == 200
    assert digits.gauge("compilations_total") == before == 0
