"""A server with a key answers nobody else, before it has read what they send."""

from __future__ import annotations

import openai
import pytest

from agentforge.errors import UserError
from agentforge.recipe.schema import Recipe
from agentforge.rollouts.policies.scripted import ScriptedPolicy
from agentforge.serving.api_key import check_key
from agentforge.serving.openai_server import is_loopback, listen, serve

from .live import running

MESSAGES = [{"role": "user", "content": "Hello"}]


def test_only_the_key_opens() -> None:
    policy = ScriptedPolicy(lambda _: "Hi.")
    with running(policy, api_key="s3cret") as url:

        def ask(key: str, **headers: str) -> str:
            client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, default_headers=headers)
            answer = client.chat.completions.create(model=policy.label, messages=MESSAGES)  # type: ignore[arg-type]
            return str(answer.choices[0].message.content)

        assert ask("s3cret") == "Hi."
        for key in ("s3cre", "s3crets", "S3cret"):
            with pytest.raises(openai.AuthenticationError, match="the API key is not this server's") as refused:
                ask(key)
            assert refused.value.code == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            ask("none", Authorization="Basic s3cret")
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.AuthenticationError):
            client.models.list()
        health = client.with_options(default_headers={}).get("../health", cast_to=object)
        assert health == {"status": "ok"}


@pytest.mark.parametrize("key", ["", "two words", "größe", "line\n"])
def test_a_key_that_no_client_could_send_is_refused_before_the_model_is_loaded(key: str) -> None:
    with pytest.raises(UserError, match="must be visible ASCII"):
        check_key(key)
    with pytest.raises(UserError, match="must be visible ASCII"):
        serve(Recipe(name="x"), "nowhere", api_key=key)


def test_an_open_server_is_told_from_one_on_loopback() -> None:
    for host, loopback in (("127.0.0.1", True), ("0.0.0.0", False)):
        with listen(host, 0) as listening:
            assert is_loopback(listening) is loopback
