"""What the checker knows by heart of the pinned libraries, so that `show` need not import them."""

from __future__ import annotations

import inspect

from transformers.activations import ACT2CLS
from transformers.configuration_utils import _LEGACY_LAYER_TYPE_REMAP, ALLOWED_LAYER_TYPES
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION

from agentforge.planning.limits.check import TRACKERS
from agentforge.planning.limits.config_values import LAYER_TYPES, ROPE_KEYS
from agentforge.recipe.combinations import ATTENTION
from agentforge.recipe.model_config import ACTIVATIONS
from agentforge.recipe.schedules import OPTIONS

FROM_THE_TRAINER = {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"}


def test_names_of_transformers() -> None:
    assert set(ACTIVATIONS) == set(ACT2CLS)
    assert set(LAYER_TYPES) == {*ALLOWED_LAYER_TYPES, *_LEGACY_LAYER_TYPE_REMAP}
    assert set(ATTENTION) == {name for name in ALL_ATTENTION_FUNCTIONS if "|" not in name} | {"eager"}
    assert {*TRACKERS, "kubeflow"} == set(INTEGRATION_TO_CALLBACK)
    assert set(ROPE_KEYS) == {"default", *ROPE_INIT_FUNCTIONS}


def test_options_of_the_schedules() -> None:
    made = {kind.value: function for kind, function in TYPE_TO_SCHEDULER_FUNCTION.items()}
    assert set(made) - set(OPTIONS) == {"reduce_lr_on_plateau", "greedy"}  # they take whatever torch takes
    for name, (needed, optional) in OPTIONS.items():
        parameters = inspect.signature(made[name]).parameters.values()
        own = {p.name: p.default for p in parameters if p.name not in FROM_THE_TRAINER}
        assert own.keys() == needed | optional
        assert {option for option, default in own.items() if default is inspect.Parameter.empty} == needed
