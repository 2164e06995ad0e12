"""How long an evaluation of `run` takes: by transformers on one device, or by llama.cpp on the CPU."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass

from agentforge.artifacts import MANIFEST, read_manifest
from agentforge.data.tools import load_tools
from agentforge.installation import find_paths
from agentforge.planning import constants
from agentforge.planning.cost import Range, seconds_of, transfer_hours
from agentforge.planning.parameters import count_parameters
from agentforge.planning.rollout_time import token_seconds
from agentforge.planning.shapes import shape_of
from agentforge.planning.sizes import Shape
from agentforge.planning.storage import GGUF_BITS
from agentforge.recipe.hardware import Hardware, load_hardware
from agentforge.recipe.schema import Recipe

NOTHING, ONE = Range(0.0, 0.0, 0.0), Range(1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Reading:
    """What a model has to read and to write.

    Attributes:
        answers: written one token after another, so many at once as `together`.
        longest: tokens that an answer may have.
        shared: tokens of all prompts that begin every one of them alike, and are read once by llama.cpp.
        own: the other tokens of all prompts.
    """

    answers: int
    longest: int
    together: int
    shared: Range
    own: Range


def evaluation_hours(recipe: Recipe, model: str | None) -> tuple[Range, str]:
    """Return the hours of one evaluation, and what they rest on.

    Args:
        model: as the stage names it: a quantisation means its GGUF, everything else a checkpoint.
    """
    if recipe.model.path is None and not recipe.model.config:  # `diversity`: of models that other recipes make
        return NOTHING, "not counted: the comparison of a set of models"
    hardware, shape = load_hardware(recipe.hardware), shape_of(recipe)
    readings = dict(_readings(recipe))
    bits = GGUF_BITS.get(model or "")
    seconds, counted = NOTHING, list(readings)
    for reading in readings.values():
        if bits is None:
            seconds += _by_transformers(reading, shape, hardware)
        else:
            seconds += _by_llama(reading, shape, bits, hardware)
    if bits is None and (scored := _scored_tokens(recipe)):
        seconds += seconds_of(scored * 2.0 * count_parameters(shape).multiplied, hardware)
        counted.append("the loss of whole rows")
    loaded = (bits or 16.0) / 8 * count_parameters(shape).total
    hours = seconds * (1 / 3600) + transfer_hours(loaded, constants.DISK.range)
    where = "one device" if bits is None else f"llama.cpp on {hardware.cores} cores"
    left_out = [name for name in ("bpc", "benchmarks", "diversity") if getattr(recipe.evaluate, name) is not None]
    basis = f"{', '.join(counted) or 'loading'}; {where}"
    return hours, basis + (f"; not counted: {', '.join(left_out)}" if left_out else "")


def _readings(recipe: Recipe) -> Iterator[tuple[str, Reading]]:
    evaluate = recipe.evaluate
    if evaluate.tool_calls is not None and (found := _questions(recipe)) is not None:
        yield f"{found.answers} questions", found
    if (asked := evaluate.answers) is not None:
        read = ONE * (asked.rows * recipe.data.max_length)  # at most
        yield f"{asked.rows} answers", Reading(asked.rows, asked.max_new_tokens, asked.rows, NOTHING, read)
    if evaluate.environments is not None:
        names = evaluate.environments.names or list(recipe.environments)
        episodes = len(names) * evaluate.environments.tasks * evaluate.environments.samples
        rows = recipe.rollouts.batch_size
        # What an episode shows is read once, as it goes on; here it counts as written.
        yield f"{episodes} episodes", Reading(episodes, recipe.episode_length, rows, NOTHING, NOTHING)


def _questions(recipe: Recipe) -> Reading | None:
    """Return the work of the held-out questions: each assistant turn with calls, asked with the turns before it."""
    settings = recipe.evaluate.tool_calls
    assert settings is not None
    own: list[int] = []
    for file in find_paths(settings.prompts):
        for line in file.read_text(encoding="utf-8-sig").splitlines():
            own += _contexts(line)
    if not own:
        return None
    own = own[: settings.limit]
    tools = json.dumps(load_tools(recipe.data.tools).schemas) if recipe.data.tools else ""
    head = len(tools) + len(recipe.data.system or "")
    tokens = ONE / constants.CHARACTERS.range
    shared, each = tokens * (head * len(own)), tokens * sum(own)
    return Reading(len(own), settings.max_new_tokens, recipe.evaluate.batch_size, shared, each)


def _contexts(line: str) -> Iterator[int]:
    """Yield the characters before each turn with calls; a line that is no conversation is for `evaluate` to refuse."""
    try:
        messages = json.loads(line)["messages"]
    except (ValueError, KeyError, TypeError):
        return
    before = 0
    for message in messages:
        if message.get("tool_calls"):
            yield before
        before += len(json.dumps(message, ensure_ascii=False))


def _scored_tokens(recipe: Recipe) -> int:
    """Return the tokens whose loss is measured; 0 where only `prepare` can tell."""
    if recipe.evaluate.loss is None:
        return 0
    rows = recipe.evaluate.loss.rows
    directory = recipe.artifact("data")
    if rows is None and (directory / MANIFEST).is_file():
        rows = (read_manifest(directory)["metrics"].get("eval") or {}).get("rows")
    return (rows or 0) * recipe.data.max_length


def _by_transformers(reading: Reading, shape: Shape, hardware: Hardware) -> Range:
    batches = math.ceil(reading.answers / reading.together)
    written = constants.EPISODE_SHARE.range * (batches * reading.longest)
    read = (reading.shared + reading.own) * seconds_of(2.0 * count_parameters(shape).multiplied, hardware)
    return written * token_seconds(shape, min(reading.answers, reading.together), hardware) + read


def _by_llama(reading: Reading, shape: Shape, bits: float, hardware: Hardware) -> Range:
    """llama.cpp answers one question after another: each token that it writes reads the whole file from memory."""
    cores, counts = hardware.cores, count_parameters(shape)
    bandwidth = _least(constants.CORE_BANDWIDTH.range * cores, constants.HOST_BANDWIDTH.range)
    once = ONE / bandwidth * (bits / 8 * counts.active)
    each = ONE / (constants.CORE_FLOPS.range * cores) * (2.0 * counts.multiplied)
    read = reading.own + reading.shared * (1 / max(reading.answers, 1))
    return constants.EPISODE_SHARE.range * (reading.answers * reading.longest) * once + read * each


def _least(one: Range, other: Range) -> Range:
    return Range(min(one.low, other.low), min(one.mid, other.mid), min(one.high, other.high))
