"""OpenAI's own client, as it comes."""

import openai
import pytest
from serving_client import about, png

CONTENT = about("describe the picture", png(1))
MESSAGES = [{"role": "user", "content": CONTENT}]


@pytest.fixture(scope="module")
def client(digits):
    return openai.OpenAI(base_url=f"http://127.0.0.1:{digits.port}/v1", api_key="any", max_retries=0)


def test_models(client):
    assert [model.id for model in client.models.list()] == ["toy"]
    assert client.models.retrieve("toy").object == "model"


def test_chat(client, digits):
    system = {"role": "system", "content": "look at the picture ."}
    said = client.chat.completions.create(model="toy", messages=[system, *MESSAGES], logprobs=True, user="me")
    choice = said.choices[0]
    assert choice.message.content == digits.text(about("look at the picture .\ndescribe the picture", png(1)))
    assert said.usage.total_tokens == said.usage.prompt_tokens + said.usage.completion_tokens
    assert choice.logprobs.content[0].bytes == list(choice.logprobs.content[0].token.encode())


def test_streams(client, digits):
    pieces = [
        chunk.choices[0].delta.content or ""
        for chunk in client.chat.completions.create(model="toy", messages=MESSAGES, stream=True)
    ]
    assert "".join(pieces) == digits.text(CONTENT)


def test_errors(client):
    with pytest.raises(openai.BadRequestError, match="tools is not supported") as caught:
        client.chat.completions.create(model="toy", messages=MESSAGES, tools=[{"type": "function"}])
    assert (caught.value.param, caught.value.code) == ("tools", "unsupported_parameter")
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="other", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError, match="generates text and has no embeddings"):
        client.embeddings.create(model="toy", input="a")
