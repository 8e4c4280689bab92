"""Numbers for Prometheus, and what the page is told."""

import json

from prometheus_client.parser import text_string_to_metric_families
from serving_client import about, png

from instructblip_jax.serving import examples


def test_metrics_are_readable_and_count(digits):
    def read():
        families = text_string_to_metric_families(digits.ask("GET", "/metrics")[2].decode())
        return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}

    before = read()
    said = digits.chat(about("describe the picture", png(0)))
    digits.post("/v1/chat/completions", {})
    after = read()
    ways = {status: ("serve_requests_total", "/v1/chat/completions", status) for status in ("200", "400")}
    for key, more in (
        (("serve_tokens_total",), said["usage"]["completion_tokens"]),
        (ways["200"], 1),
        (ways["400"], 1),
        (("serve_first_token_seconds_count",), 1),
        (("serve_request_seconds_count",), 1),
    ):
        assert after[key] - before.get(key, 0) == more
    assert after["serve_rows",] == digits.limits.rows


def test_about_says_what_requests_may_be(digits):
    told = json.loads(digits.ask("GET", "/demo/about")[2])
    assert told["does"] == ["write", "rank", "look"]
    assert told["media"]["image"]["most"] == 1
    assert told["limits"] == {"max_tokens": 16, "bytes": 20_000_000, "pictures": 2, "candidates": 16}
    assert digits.ask("GET", "/demo/example.png")[2] == b"PNG"
    messages = [{"role": "user", "content": about("which digit is red ?", png(0))}]
    status, looked = digits.post("/demo/look", {"messages": messages})
    assert (status, [len(view["maps"]) for view in looked["views"]]) == (200, [16, 16])
    assert looked["picture"].startswith("data:image/png;base64,")
    for path, more in (("/demo/match", {}), ("/demo/rank", {"candidates": ["a"] * 17}), ("/demo/rank", {})):
        assert digits.post(path, {"messages": messages, **more})[0] == 400


def test_the_examples_are_of_the_model_s_world(digits):
    known = examples.instructions(())
    assert {one["task"] for one in examples.instructions(("count", "describe"))} == {"count", "describe"}
    assert all(not digits.processor.tokenizer.unknown(one["text"]) for one in known)
    assert [examples.is_digits(sets) for sets in (("count",), ("vqav2",), ())] == [True, False, False]
    assert "{" not in "".join(one["text"] for one in known + examples.instructions(None))
    assert examples.picture().startswith(b"\x89PNG")
