"""The recipe as text, with the reasons as comments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agentforge.atomic_files import write_text
from agentforge.planning.first_recipe.bases import SCRATCH, SMALL, SMALL_VOCABULARY
from agentforge.planning.first_recipe.look import Look
from agentforge.planning.first_recipe.suggest import Suggestion, is_small
from agentforge.planning.first_recipe.wishes import Goal, Wishes, check_name
from agentforge.recipe.loading import Origin, validate
from agentforge.recipe.yaml_files import parse_yaml

LORA = "  lora: {r: 16, lora_alpha: 32, target_modules: all-linear}"


def recipe_text(wishes: Wishes, found: Look, values: Suggestion) -> str:
    """Return the recipe of a goal that learns from rows."""
    length = f"  max_length: {values.max_length:<14} # tokens; {_longest(found)}"
    return f"""{_head(wishes, found.goal)}
data:
{length}
{_mix(wishes, found, values)}
train:
  method: {found.goal}
{_training(wishes, found, values)}
{_evaluations(values)}export: {{dtype: {_dtype(wishes)}}}
"""


def turn_tokens(wishes: Wishes) -> int:
    """Return the tokens that one turn of the model may have in an environment."""
    return 512 if wishes.hardware.gpus else 64


def playing_recipe_text(wishes: Wishes, parameters: int | None, length: int, prompt: int | None) -> str:
    """Return the recipe of `grpo`, whose data are an environment.

    Args:
        length: tokens of a whole episode.
        prompt: tokens of the longest first prompt, if they are known.
    """
    cpu = not wishes.hardware.gpus
    small = is_small(parameters)
    lora = "" if small else f"{LORA}\n"
    begin = "" if prompt is None else f"; it begins with a prompt of up to {prompt}"
    return f"""{_head(wishes, "grpo")}
data: {{max_length: {length}}}   # tokens of a whole episode{begin}
environments: {{{wishes.data}: {{}}}}
rollouts: {{max_new_tokens: {turn_tokens(wishes)}, batch_size: {16 if cpu else 64}}}

train:
  method: grpo
{lora}  args:
    max_steps: {20 if cpu else 200}
    learning_rate: {1e-4 if small else 1e-5:g}
    num_generations: 8           # episodes of the same task; what is better than their mean is made likelier
    per_device_train_batch_size: 8
    gradient_accumulation_steps: {1 if cpu else 8}

evaluate:                        # of the base, and of what is trained
  environments: {{tasks: {20 if cpu else 100}}}
export: {{dtype: {_dtype(wishes)}}}
"""


def _longest(found: Look) -> str:
    if found.goal == "pretrain":
        return "documents are cut into pieces of it"
    return f"the longest of {len(found.tokens)} rows has {max(found.tokens)}"


def _head(wishes: Wishes, goal: Goal) -> str:
    name = wishes.name
    use = f"generate {name} --prompt TEXT" if goal == "pretrain" else f"chat {name}"
    preview = "" if goal == "grpo" else f"#   agentforge preview {name}       rows as the model will see them\n"
    return f"""# Made by `agentforge init`. Paths are relative to the directory in which you run agentforge.
#
{preview}#   agentforge plan {name}          memory, hours and dollars
#   agentforge run {name}           all stages; those that are up to date are skipped
#   agentforge {use}
name: {name}
output_dir: runs/{name}
hardware: {wishes.hardware.name}

model: {_model(wishes)}
"""


def _mix(wishes: Wishes, found: Look, values: Suggestion) -> str:
    """Return the lines of the sources; those of preferences stand under `train`."""
    if found.goal not in ("dpo", "kto"):
        why = "held out for the evaluations" if values.eval_fraction else "too few rows to hold any out"
        return f"  eval_fraction: {values.eval_fraction:<11g} # {why}\n  mix: [{_flow({'dataset': wishes.data})}]\n"
    if not values.eval_fraction:
        return ""
    train, held_out = _parts(wishes)
    return f"""  eval_fraction: 0
  mix:                           # for the evaluations: the chosen answers of the last tenth
    - {_flow(train)}
    - {_flow({**held_out, "held_out": True})}
"""


def _parts(wishes: Wishes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the lines that read the first nine tenths of preferences and the last."""
    return {"dataset": wishes.data, "part": [0, 0.9]}, {"dataset": wishes.data, "part": [0.9, 1]}


def _evaluations(values: Suggestion) -> str:
    if not values.eval_fraction:
        return ""
    return """evaluate:                        # of the base, and of what is trained
  loss: {}
  answers: {rows: 5}
"""


def _model(wishes: Wishes) -> str:
    if wishes.base != SCRATCH:
        return _flow({"path": wishes.base, "dtype": _dtype(wishes)})
    return _flow({"dtype": _dtype(wishes), "tokenizer": {"vocab_size": SMALL_VOCABULARY}, "config": SMALL})


def _training(wishes: Wishes, found: Look, values: Suggestion) -> str:
    lines = []
    if found.goal in ("dpo", "kto"):
        line = _parts(wishes)[0] if values.eval_fraction else {"dataset": wishes.data}
        lines.append(f"  preferences: [{_flow(line)}]")
    if values.lora:
        lines.append(LORA)
    lines += [
        "  args:",
        f"    max_steps: {values.max_steps:<13} # {values.steps_why}",
        f"    learning_rate: {values.learning_rate:g}",
        f"    per_device_train_batch_size: {values.batch_size}",
        f"    warmup_steps: {max(1, values.max_steps // 20)}",
        "    lr_scheduler_type: cosine",
        f"    logging_steps: {max(1, values.max_steps // 20)}",
    ]
    if found.goal == "sft" and not values.packing:
        lines.append("    packing: false               # so few rows would be a handful of packed ones")
    return "\n".join(lines) + "\n"


def _dtype(wishes: Wishes) -> str:
    return "bfloat16" if wishes.hardware.gpus else "float32"


def _flow(value: Any) -> str:
    """Return a value as YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def write_recipe(wishes: Wishes, text: str) -> Path:
    """Check the recipe as every verb would, and write it.

    Raises:
        UserError: it is wrong, or a file of its name has come meanwhile.
    """
    raw: dict[str, Any] = parse_yaml(text, wishes.file)
    validate(raw, Origin(wishes.file))
    check_name(wishes.name)
    write_text(Path(wishes.file), text)
    return Path(wishes.file)
