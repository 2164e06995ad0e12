"""What a model card says of how a Cognate is opened, and how long it thinks."""

from __future__ import annotations

from typing import Any

import pytest

from agentforge.systems.cognate.usage import usage


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, "all 3 iterations. This model has `None`."),
        ({"exit_threshold": 0.5, "specialisation": "speed"}, "This is the *speed* specialisation, with `0.5`."),
        ({"halting": "none", "max_recursions": 2}, "It always thinks in 2 iterations about each token."),
        ({"max_recursions": 1}, "It always thinks in 1 iteration about each token."),
    ],
)
def test_the_card_says_how_long_it_thinks(config: dict[str, Any], says: str) -> None:
    text = usage({"model_type": "cognate", **config}, "me/model", adapter=False)
    assert says in text and 'AutoModelForCausalLM.from_pretrained("me/model")' in text
    assert "AutoPeftModelForCausalLM" in usage(config, "me/adapter", adapter=True)
