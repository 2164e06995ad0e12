"""Whether rows that a model reads together come out as each would by itself: found by trying, not by its name.

Rows are run together for speed, in six ways, and each takes something of the model for granted:

* packed, as rows are for training: joined end to end, `position_ids` that restart, no `attention_mask`. Attention looks
  for the restarts and masks what is before them. A layer that carries a state along the row (a scan, a linear
  attention, a convolution) mostly does not: its state runs on into the next document, silently.
* padded on the right under an `attention_mask`, as unpacked rows, DPO, KTO and the losses of `evaluate` are. What
  follows a token cannot reach it in a causal model; a model that is not causal is found out here.
* padded on the left under an `attention_mask`, without `position_ids`, as TRL scores the prompts of GRPO (and with it
  PPO). Rotary positions only know distances; learned ones (GPT-2) take another row of the table.
* padded on the left, generated from with a cache, as episodes are played.
* with a gap in the middle, as prompts are that share the cache of what they begin with. A sliding window counts it.
* piece by piece in one cache, each row as long as it is, as episodes are played whose cache is kept over their turns.
  A sliding window hides what the cache shows; not every scan goes on from a state it is given (Jamba's does not).

A list of names of models that "carry a state" is never complete: `ZayaForCausalLM` was in none, and packed rows of it
were off by half a unit of the logits without a word. Nor is it only states: the masks of gpt_oss and AFMoE do not look
at `position_ids` (transformers 5.23), those of OPT and Bloom cannot. So two short rows are run in each way and alone,
and the logits compared. That is a property of the code (class, attention, kernels that are installed), not of the
weights, so it is asked of a small twin with random weights; only where no twin can be made it is asked of the loaded
model. What was found is kept in the process and in ``~/.cache/agentforge/row_isolation``, by all that it depends on.
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

from agentforge.artifacts import hash_json, write_json
from agentforge.errors import UserError, first_line
from agentforge.models.ragged_cache import RaggedCache, read_rows
from agentforge.models.small_twin import VOCABULARY, concrete_class, small_twin

log = logging.getLogger(__name__)

Way = Literal["packed", "right", "left", "generated", "gapped", "carried"]
WAYS: dict[Way, str] = {
    "packed": "packed end to end",
    "right": "padded on the right",
    "left": "padded on the left",
    "generated": "padded on the left and generated from",
    "gapped": "with a gap behind what they share",
    "carried": "piece by piece in one cache",
}
PACKAGE = Path(__file__).resolve().parents[1]
VERSION = 4
"""Of the probe: what another one has found is not read."""
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
COARSE = 0.05
"""Of dtypes with a short mantissa. What leaks from row to row is of the order of 1."""
LENGTHS = (15, 10)
KERNELS = ("torch", "transformers", "mamba-ssm", "causal-conv1d", "flash-linear-attention", "flash-attn", "kernels")
NOISE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "id2label", "label2id")
_FOUND: dict[str, Isolation] = {}


@dataclass(frozen=True)
class Isolation:
    """What running rows together does to the logits of each.

    Attributes:
        model: its class.
        differences: way to the largest difference from the row alone, in standard deviations of the logits; infinite
            where it could not be run at all.
        tolerance: what rounding makes of it.
        reason: why nothing is proven, whatever the differences are; None: they speak for themselves.
    """

    model: str
    differences: dict[Way, float]
    tolerance: float
    reason: str | None = None

    def allows(self, way: Way) -> bool:
        """Tell whether rows may be run together in this way."""
        return self.refusal(way) is None

    def refusal(self, way: Way) -> str | None:
        """Return why rows must not be run together in this way, or None if they may."""
        if self.reason:
            return self.reason
        difference = self.differences[way]
        if difference <= self.tolerance:  # not so of a NaN
            return None
        if difference == float("inf"):
            return f"{self.model} cannot run rows {WAYS[way]}"
        return f"rows of {self.model} {WAYS[way]} change each other: logits differ by {difference:.2g} of their spread"


def isolation_of(model: PreTrainedModel | PretrainedConfig) -> Isolation:
    """Return how rows of this model come out beside others, from the cache if this was asked before.

    Args:
        model: as it was loaded, with an adapter or without; or its config alone, for `AutoModelForCausalLM`'s class.
    """
    found: Any = model
    loaded = found.get_base_model() if hasattr(model, "get_base_model") else found
    config = loaded if isinstance(loaded, PretrainedConfig) else loaded.config
    try:
        model_class = concrete_class(loaded) if loaded is config else type(loaded)
    except KeyError:
        return Isolation(config.model_type, {}, 0.0, f"{config.model_type} is no causal language model of transformers")
    key = _key(model_class, config)
    name = hash_json(key)
    if name not in _FOUND:
        _FOUND[name] = _read(name) or _ask(model_class, config, None if loaded is config else loaded)
        if key["code"] is not None:
            _write(name, key, _FOUND[name])
    return _FOUND[name]


def require(model: PreTrainedModel, way: Way, wanted: str) -> None:
    """Refuse what would silently train on, or measure, a mixture of rows.

    Args:
        model: as it was loaded.
        way: how the rows would be run together.
        wanted: what needs that, and what to do about it; it begins the sentence.

    Raises:
        UserError: the rows would change each other.
    """
    if refusal := isolation_of(model).refusal(way):
        raise UserError(f"{wanted}: {refusal}")


def _ask(model_class: type[PreTrainedModel], config: PretrainedConfig, loaded: PreTrainedModel | None) -> Isolation:
    attention, name = getattr(config, "_attn_implementation", None), model_class.__name__
    flash = "flash" in (attention or "")
    dtype = torch.bfloat16 if flash else torch.float32  # flash attention has no fp32
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    devices = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.autocast(device.type, enabled=False), torch.no_grad():
        twin = small_twin(model_class, config)
        if twin is not None:
            return _unless_rounding(probe(twin.to(device, dtype), name), twin, name)  # type: ignore[arg-type]
        if loaded is None:
            return Isolation(
                name, {}, 0.0, f"{name} could not be tried in small, so it is not known to keep rows apart"
            )
        return _probe_loaded(loaded, name)


def _unless_rounding(found: Isolation, twin: PreTrainedModel, name: str) -> Isolation:
    """Return what was found, but in fp64 where a small difference may be rounding that many layers have multiplied.

    A model that runs its layers again and again is as deep as it runs them. A leak stays what it is in fp64.
    """
    small = [d for d in found.differences.values() if found.tolerance < d < COARSE]
    if found.reason is not None or not small or twin.dtype != torch.float32:
        return found
    exact = probe(twin.double(), name)
    if exact.reason is not None:  # not every class computes in fp64
        return found
    return Isolation(
        name, {way: min(d, exact.differences[way]) for way, d in found.differences.items()}, found.tolerance
    )


def _probe_loaded(model: PreTrainedModel, name: str) -> Isolation:
    """Ask the model itself, which proves less: its windows may be longer than the rows, a path may be switched off."""
    if switched_off := [n for n, p in model.named_parameters() if p.dim() > 1 and not p.any()]:
        return Isolation(name, {}, 0.0, f"{name} could not be tried in small, and {switched_off[0]} is all 0 so far")
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        found = probe(model, name)
    finally:
        for module in training:
            module.training = True
    unproven: dict[Way, float] = {"gapped": float("inf"), "carried": float("inf")}
    return Isolation(name, {**found.differences, **unproven}, found.tolerance, found.reason)


def probe(model: PreTrainedModel, name: str) -> Isolation:
    """Return how two short rows come out of a model in each way; its own weights and device, evaluation mode."""
    generator = torch.Generator().manual_seed(1)
    vocabulary = min(model.config.get_text_config().vocab_size, VOCABULARY)
    rows = [torch.randint(1, vocabulary, (n,), generator=generator).to(model.device) for n in LENGTHS]
    tolerance = TOLERANCE.get(model.dtype, COARSE)
    try:
        alone = [_logits(model, row[None])[0] for row in rows]
        other = torch.cat([rows[0][:-1] % (vocabulary - 1) + 1, rows[0][-1:]])
        looks_back = (_logits(model, other[None])[0, -1] - alone[0][-1]).abs().max() / alone[0].std()
    except Exception as error:  # whatever a class of others raises, the answer is that nothing is proven
        return Isolation(name, {}, tolerance, f"{name} could not be tried: {first_line(error)}")
    if not looks_back > 100 * tolerance:
        return Isolation(name, {}, tolerance, f"a token of {name} does not depend on those before: nothing is shown")
    differences = {way: _difference(run, model, rows, alone) for way, run in _RUNS.items()}
    return Isolation(name, differences, tolerance)


def _difference(run: Run, model: PreTrainedModel, rows: Sequence[Tensor], alone: Sequence[Tensor]) -> float:
    try:
        together = run(model, rows, alone)
    except Exception as error:
        log.debug("%s: %s", type(model).__name__, error)
        return float("inf")
    return max(float((a - b).abs().max() / a.std()) for a, b in together)


def _logits(model: PreTrainedModel, ids: Tensor, **inputs: Any) -> Tensor:
    logits: Tensor = model(input_ids=ids, **_known(model, use_cache=False, **inputs)).logits
    return logits.float()


def _known(model: PreTrainedModel, **inputs: Any) -> dict[str, Any]:
    """Return the inputs without `position_ids` if the model has none, as `generate` does."""
    names = inspect.signature(model.forward).parameters
    takes = "position_ids" in names or any(p.kind is p.VAR_KEYWORD for p in names.values())
    return {k: v for k, v in inputs.items() if takes or k != "position_ids"}


# -- the ways: each returns pairs of logits, alone and together ------------------------------------------------------

Run = Callable[[PreTrainedModel, Sequence[Tensor], Sequence[Tensor]], list[tuple[Tensor, Tensor]]]


def _packed(model: PreTrainedModel, rows: Sequence[Tensor], alone: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    (a, b), positions = rows, [torch.arange(len(row), device=row.device) for row in rows]
    ids = torch.stack([torch.cat([a, b]), torch.cat([b, a])])
    places = torch.stack([torch.cat(positions), torch.cat(positions[::-1])])
    if "flash" in (model.config._attn_implementation or ""):  # the collator for it joins the batch into one row
        ids, places = ids.view(1, -1), places.view(1, -1)
    packed = _logits(model, ids, position_ids=places).view(2, len(a) + len(b), -1)
    first, second = packed[0].split([len(a), len(b)]), packed[1].split([len(b), len(a)])
    return [(alone[0], first[0]), (alone[1], first[1]), (alone[1], second[0]), (alone[0], second[1])]


def _padded(rows: Sequence[Tensor], places: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return ids and mask of rows as long as the longest, each parted at a place where its padding is."""
    width = max(map(len, rows))
    ids, mask = (rows[0].new_zeros(len(rows), width) for _ in range(2))
    for i, (row, place) in enumerate(zip(rows, places, strict=True)):
        gap = width - len(row)
        ids[i] = torch.cat([row[:place], row.new_zeros(gap), row[place:]])
        mask[i] = torch.cat([torch.ones_like(row[:place]), row.new_zeros(gap), torch.ones_like(row[place:])])
    return ids, mask


def _compare(logits: Tensor, mask: Tensor, alone: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [(own, row[seen.bool()]) for own, row, seen in zip(alone, logits, mask, strict=True)]


def _right(model: PreTrainedModel, rows: Sequence[Tensor], alone: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    ids, mask = _padded(rows, [len(row) for row in rows])
    return _compare(_logits(model, ids, attention_mask=mask), mask, alone)


def _left(model: PreTrainedModel, rows: Sequence[Tensor], alone: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    ids, mask = _padded(rows, [0, 0])
    return _compare(_logits(model, ids, attention_mask=mask), mask, alone)


def _gapped(model: PreTrainedModel, rows: Sequence[Tensor], alone: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    ids, mask = _padded(rows, [3, 3])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return _compare(_logits(model, ids, attention_mask=mask, position_ids=positions), mask, alone)


def _generated(model: PreTrainedModel, rows: Sequence[Tensor], alone: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Compare the logits that tokens are drawn from, as long as they have drawn the same ones."""
    pairs = []
    together = _generate(model, *_padded(rows, [0, 0]))
    for i, row in enumerate(rows):
        own = _generate(model, row[None], torch.ones_like(row[None]))
        for a, b in zip(own, together, strict=True):
            pairs.append((a[0].float(), b[i].float()))
            if a[0].argmax() != b[i].argmax():
                break
    return pairs


def _generate(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> Sequence[Tensor]:
    settings = GenerationConfig(
        max_new_tokens=3, do_sample=False, pad_token_id=0, return_dict_in_generate=True, output_logits=True
    )
    own, model.generation_config = model.generation_config, GenerationConfig(pad_token_id=0)
    try:
        generate: Any = model.generate
        logits: Sequence[Tensor] = generate(input_ids=ids, attention_mask=mask, generation_config=settings).logits
    finally:
        model.generation_config = own
    return logits


PIECES: tuple[dict[int, int], ...] = (
    {3: 2},
    {0: 5},  # the others keep what they have, or have nothing
    {0: 1, 3: 1},  # rows far apart, and the rows between them not read
    {0: 3, 3: 3},
    {0: 1, 1: 1, 3: 1},  # a row joins late
    {0: 2, 1: 2},
)
"""Tokens that rows of the cache read together, forward by forward; the even rows are the first row of the probe."""


def _carried(model: PreTrainedModel, rows: Sequence[Tensor], alone: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    cache, held = RaggedCache(4, model.config), [0] * 4
    texts: list[list[int]] = [rows[row % 2].tolist() for row in range(4)]
    pairs: list[tuple[Tensor, Tensor]] = []

    def read(counts: dict[int, int]) -> None:
        new = [texts[row][held[row] : held[row] + count] for row, count in counts.items()]
        logits = read_rows(model, cache, list(counts), new, [held[row] for row in counts]).float()
        for row, ours in zip(counts, logits, strict=True):
            held[row] += counts[row]
            pairs.append((alone[row % 2][held[row] - 1], ours))

    for counts in PIECES:
        read(counts)
    cache.copy(0, 2, 0, held[0])  # what is shared is copied
    held[2] = held[0]
    read({0: 1, 2: 1, 3: 1})
    read({2: 2})
    cache.clear(0)  # and another episode takes the place of one that has ended
    held[0] = 0
    read({0: 4})
    read({0: 1, 3: 1})
    return pairs


_RUNS: dict[Way, Run] = {
    "packed": _packed,
    "right": _right,
    "left": _left,
    "generated": _generated,
    "gapped": _gapped,
    "carried": _carried,
}


# -- the cache ------------------------------------------------------------------------------------------------------


def _key(model_class: type[PreTrainedModel], config: PretrainedConfig) -> dict[str, Any]:
    fields = {name: value for name, value in config.to_dict().items() if name not in NOISE}
    return {
        "probe": VERSION,
        "class": f"{model_class.__module__}.{model_class.__qualname__}",
        "code": _code(model_class),
        "attention": getattr(config, "_attn_implementation", None),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "versions": {name: version for name in KERNELS if (version := _installed(name))},
        "config": json.loads(json.dumps(fields, default=str, sort_keys=True)),
    }


def _code(model_class: type[PreTrainedModel]) -> str | None:
    """Return what tells the code of a class from another state of it; None: it may change from run to run unseen."""
    if (package := model_class.__module__.partition(".")[0]) == "transformers":
        return "of its version"
    return _own_code() if package == PACKAGE.name else None


@functools.cache
def _own_code() -> str:
    """Return the hash of the models that are ours and of all that they are made of."""
    files = [*(PACKAGE / "models").rglob("*.py"), *(PACKAGE / "systems").rglob("*.py")]
    return hash_json({str(file.relative_to(PACKAGE)): file.read_text(encoding="utf-8") for file in files})


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _file(name: str) -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "agentforge" / "row_isolation" / f"{name.removeprefix('sha256:')}.json"


def _read(name: str) -> Isolation | None:
    try:
        return Isolation(**json.loads(_file(name).read_text(encoding="utf-8"))["found"])
    except (OSError, ValueError, TypeError, KeyError):  # not there, or not whole: it is asked again
        return None


def _write(name: str, key: dict[str, Any], found: Isolation) -> None:
    try:
        _file(name).parent.mkdir(parents=True, exist_ok=True)
        write_json(_file(name), {"found": asdict(found), "key": key})
    except OSError as error:  # a home that cannot be written in costs a second a run, no more
        log.debug("what was found of %s is not kept: %s", found.model, error)
