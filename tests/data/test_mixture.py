"""How often each set is drawn."""

import math

import pytest

from instructblip_jax.data.mixture import probabilities

SIZES = {"large": 20_000, "middle": 1_800, "small": 200}


def test_the_papers_balance_is_the_root_of_the_size():
    got = probabilities(SIZES)
    total = sum(math.sqrt(size) for size in SIZES.values())
    assert got == pytest.approx({name: math.sqrt(size) / total for name, size in SIZES.items()}, rel=1e-12)
    assert sum(got.values()) == pytest.approx(1, rel=1e-12)
    assert list(got) == list(SIZES)


def test_the_papers_own_mixture():
    """Three of the sets of arXiv 2305.06500, appendix: sqrt(566,747) : sqrt(14,575) and so on."""
    got = probabilities({"coco_caption": 566_747, "text_caps": 109_765, "icon_qa": 19_300})
    assert got["coco_caption"] / got["text_caps"] == pytest.approx((566_747 / 109_765) ** 0.5)
    assert got["coco_caption"] / got["icon_qa"] == pytest.approx((566_747 / 19_300) ** 0.5)


def test_exponents():
    assert probabilities(SIZES, exponent=0) == pytest.approx(dict.fromkeys(SIZES, 1 / 3))
    whole = sum(SIZES.values())
    assert probabilities(SIZES, exponent=1) == pytest.approx({name: size / whole for name, size in SIZES.items()})


def test_weights_multiply_and_need_not_name_every_set():
    plain, got = probabilities(SIZES), probabilities(SIZES, weights={"small": 3.0})
    assert got["small"] / got["large"] == pytest.approx(3 * plain["small"] / plain["large"])
    assert got["middle"] / got["large"] == pytest.approx(plain["middle"] / plain["large"])
    assert sum(got.values()) == pytest.approx(1)


def test_a_set_of_weight_zero_is_not_in_the_mixture():
    got = probabilities(SIZES, weights={"large": 0})
    assert list(got) == ["middle", "small"]
    assert sum(got.values()) == pytest.approx(1)


def test_a_cap_is_the_size_that_a_set_counts_as_at_most():
    got = probabilities(SIZES, caps={"large": 200, "small": 5_000})
    assert got["large"] == pytest.approx(got["small"])  # the small one's cap is above its size
    assert got["middle"] / got["large"] == pytest.approx(3.0)
    weighed = probabilities(SIZES, exponent=1, weights={"large": 0.5}, caps={"large": 1_000})
    assert weighed["large"] / weighed["middle"] == pytest.approx(500 / 1_800)


@pytest.mark.parametrize(
    ("caps", "words"),
    [
        ({"small": 0}, "mixture.caps: that of small is below 1; a weight of 0 leaves a set out"),
        ({"small": -3, "large": 0}, "mixture.caps: that of large, small is below 1"),
        ({"tiny": 5}, "mixture.caps names tiny, not among mixture.sets (large, middle, small)"),
    ],
)
def test_a_cap_that_cannot_be_is_refused(caps, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        probabilities(SIZES, caps=caps)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("sizes", "weights", "words"),
    [
        ({}, {}, ["mixture.sets is empty"]),
        ({"a": 0, "b": 3}, {}, ["a", "no training record"]),
        ({"a": 1}, {"b": 1.0, "c": 1.0}, ["b, c", "(a)"]),
        ({"a": 1, "b": 1}, {"a": -1.0}, ["negative"]),
        ({"a": 1, "b": 1}, {"a": 0.0, "b": 0.0}, ["positive"]),
        ({"a": 1, "b": 1}, {"a": math.nan}, ["mixture.weights"]),
        ({"a": 1, "b": 1}, {"a": math.inf}, ["mixture.weights"]),
    ],
    ids=["empty", "no records", "unknown set", "negative", "all zero", "nan", "infinite"],
)
def test_a_mixture_that_cannot_be_is_refused(sizes, weights, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        probabilities(sizes, weights=weights)
    for word in words:
        assert word in str(caught.value)
