"""Every system behind the same server: those that write, converse, hear or compare."""

import io
import json

import numpy as np
import openai
import pytest
from serving_client import about, png, together, url

import instructblip_jax as ib

TEXT = "which digit is red ?"
WRITING = (
    *("instructblipvideo", "blip-2", "llava", "flamingo", "idefics", "frozen", "kosmos-1", "x-instructblip"),
    *("blip-2-stage-1", "blip-captioning"),
)
COMPARING = {"blip-2-stage-1": {}, "albef": {"queue_size": 12}, "blip": {"queue_size": 12}}
"""Those that compare, with their options: a small queue."""
SHORT = ("llava", "flamingo")
"""Those that CI asks; the others' ways through the server are these, or InstructBLIP's."""
PROMPT = {"llava": 96, "blip-2": 8}


@pytest.fixture(scope="module")
def served(request, serve, mini):
    kind = request.param
    options = COMPARING.get(kind)
    one = serve(mini(kind), options=options, rows=3, max_tokens=6, max_prompt=PROMPT.get(kind, 28))
    yield one
    one.close()


def kinds(names, *short):
    return [pytest.param(name, marks=[] if name in short else [pytest.mark.long]) for name in names]


@pytest.mark.parametrize("served", kinds(WRITING, *SHORT), indirect=True)
def test_a_system_that_writes(served):
    texts = (TEXT, "how many digits are there ?", "is there a 7 ?", "")[
        : 4 if served.processor.prompts_may_be_empty else 3
    ]
    pictures = [png(n) for n in range(len(texts))]
    pairs = list(zip(texts, pictures, strict=True))
    got = together(lambda one: served.text(about(*one)), pairs)
    want = [ib.generate(served.model, served.processor, picture, text, max_new_tokens=6)[0] for text, picture in pairs]
    assert got == want
    messages = [{"role": "user", "content": about(TEXT, pictures[0])}]
    status, ranked = served.post("/demo/rank", {"messages": messages, "candidates": ["3", "red"]})
    assert status == 200
    want = ib.rank(served.model, served.processor, pictures[0], TEXT, ["3", "red"])[0]
    assert ranked["log_likelihoods"] == pytest.approx(want.tolist(), abs=1e-4)
    assert sum(ranked["probabilities"]) == pytest.approx(1)
    does = served.post("/demo/look", {"messages": messages})
    assert (does[0] == 200) == ("look" in json.loads(served.ask("GET", "/demo/about")[2])["does"])


@pytest.mark.parametrize("served", kinds(["llava"], "llava"), indirect=True)
def test_a_conversation(served):
    turns = [("which digit is red ?", "3"), ("and which one is blue ?", None)]
    messages = [
        {"role": "user", "content": about(turns[0][0], png(0))},
        {"role": "assistant", "content": turns[0][1]},
        {"role": "user", "content": turns[1][0]},
    ]
    got = served.text(None, messages=messages)
    processor, model = served.processor, served.model
    media = processor.media_of([png(0)])
    batch = media | processor.batch([processor.converse(turns, 1)], 96, training=False)
    assert got == processor.decode(ib.generate_ids(model, batch, max_new_tokens=6))[0]
    assert (
        served.text("no picture at all ?")
        == processor.decode(
            ib.generate_ids(
                model,
                media | processor.batch([processor.converse([("no picture at all ?", None)], 0)], 96, training=False),
                max_new_tokens=6,
            )
        )[0]
    )
    late = [*messages[:2], {"role": "user", "content": about("and here ?", png(1))}]
    assert served.post("/v1/chat/completions", {"model": "toy", "messages": late})[0] == 400


@pytest.mark.parametrize("served", kinds(["flamingo", "kosmos-1"], "flamingo"), indirect=True)
def test_pictures_among_words(served):
    pictures = [png(0), png(1)]
    first, second = ({"type": "image_url", "image_url": {"url": url(one)}} for one in pictures)
    content = [first, {"type": "text", "text": "a red 3 ."}, second, {"type": "text", "text": "a"}]
    want = ib.generate(served.model, served.processor, [pictures], ["<image>a red 3 .<image>a"], max_new_tokens=6)
    assert served.text(content) == want[0]
    status, said = served.post(
        "/v1/chat/completions",
        {"model": "toy", "messages": [{"role": "user", "content": about("a", *pictures, png(2))}]},
    )
    assert (status, said["error"]["code"]) == (400, "too_many_media")


@pytest.mark.parametrize("served", kinds(["x-instructblip"]), indirect=True)
def test_a_system_of_several_senses(served):
    points = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
    buffer = io.BytesIO()
    np.save(buffer, points)
    cloud = {"type": "pc_url", "pc_url": {"url": url(buffer.getvalue(), "application/octet-stream")}}
    image = {"type": "image_url", "image_url": {"url": url(png(0))}}
    asked = {"type": "text", "text": TEXT}
    model, processor = served.model, served.processor
    assert (
        served.text([cloud, asked])
        == ib.generate(model, processor, None, TEXT, media={"pc": [buffer.getvalue()]}, max_new_tokens=6)[0]
    )
    assert (
        served.text([image, cloud, asked])
        == ib.generate(model, processor, [png(0)], TEXT, media={"pc": [buffer.getvalue()]}, max_new_tokens=6)[0]
    )


@pytest.mark.parametrize("served", kinds(COMPARING, "blip"), indirect=True)
def test_a_system_that_compares(served):
    model, processor = served.model, served.processor
    texts, pictures = [TEXT, "two digits", "a blue 5"] * 4, [png(n) for n in range(3)]
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{served.port}/v1", api_key="any", max_retries=0)
    found = client.embeddings.create(model="toy", input=texts)  # as base64
    assert found.usage.prompt_tokens > 12
    want = ib.embed_texts(model, processor, texts)
    np.testing.assert_allclose([one.embedding for one in found.data], want, atol=1e-5)
    status, mixed = served.post(
        "/v1/embeddings",
        {"model": "toy", "input": [{"image": url(pictures[0])}, "two digits", about("", pictures[1])[:1]]},
    )
    assert status == 200
    image = ib.embed_images(model, processor, pictures)
    np.testing.assert_allclose(mixed["data"][0]["embedding"], image[0].reshape(-1), atol=1e-5)
    np.testing.assert_allclose(mixed["data"][1]["embedding"], want[1], atol=1e-5)
    np.testing.assert_allclose(mixed["data"][2]["embedding"], image[1].reshape(-1), atol=1e-5)
    messages = [{"role": "user", "content": about(TEXT, *pictures[:2])}]
    status, said = served.post("/demo/match", {"messages": messages})
    assert status == 200
    np.testing.assert_allclose(said["match"], ib.match(model, processor, pictures[:2], TEXT), atol=1e-5)
    np.testing.assert_allclose(said["similarity"], ib.similarity(model, processor, pictures[:2], TEXT), atol=1e-5)
    for wrong in ({"input": []}, {"input": [[1, 2]]}, {"input": ""}, {"input": "a", "dimensions": 3}):
        assert served.post("/v1/embeddings", {"model": "toy", **wrong})[0] == 400
    if not model.has("prefill"):
        assert served.post("/v1/chat/completions", {"model": "toy", "messages": messages})[0] == 400
