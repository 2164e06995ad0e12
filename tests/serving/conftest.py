"""The tiny model that has learnt its lines, behind a live server: as a checkpoint and as a GGUF file."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from agentforge.models.locate_model import locate_path
from agentforge.rollouts.policies.open_policy import open_policy

from .live import client_of, running


@pytest.fixture(scope="session", params=["hf", pytest.param("gguf", marks=pytest.mark.gguf)])
def client(request: pytest.FixtureRequest) -> Iterator[openai.OpenAI]:
    path = request.getfixturevalue("talking_checkpoint" if request.param == "hf" else "talking_gguf")
    location = locate_path(str(path), label="talking")
    with running(open_policy(location)) as url:
        yield client_of(url)
