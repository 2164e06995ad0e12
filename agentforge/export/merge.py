"""`merge`: adapters into their base, checked against the unmerged model before the result is published."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from agentforge.artifacts import stage_directory
from agentforge.errors import CheckRefused, UserError
from agentforge.export.agreement import (
    Agreement,
    ComparisonPlace,
    agreement,
    comparison_place,
    comparison_rows,
    load_model,
    logits_of,
)
from agentforge.export.lora_weights import LoraAdapter, combine
from agentforge.export.merged_weights import MergedWeights
from agentforge.models.build import identify_base
from agentforge.models.checkpoint import Checkpoint, checkpoint_directory
from agentforge.models.checkpoint_files import TOKENIZER_FILES, copy_present, require_space
from agentforge.models.fingerprint import BASE_FILE, base_fingerprint
from agentforge.recipe.schema import Recipe

log = logging.getLogger(__name__)

# Two bfloat16 runs of one 32B model differ by whole tenths in single logits, but hardly in distribution.
MAX_KL_BFLOAT16 = 0.01


def merge_stage(recipe: Recipe, replace: bool = False) -> Path:
    """Merge the recipe's adapter, and `export.adapters` with their weights, into `model.path`.

    The recipe's own adapter enters with weight 1, or with the weight that `export.adapters` gives it.

    Returns:
        the ``-merged`` artefact: a plain checkpoint with tokenizer, laid out in shards as the base is.

    Raises:
        CheckRefused: nothing to merge, an adapter of another base, a damaged file, too little disk, a weight that
            overflows `export.dtype`, or a merged model whose logits differ from the unmerged one's by more than
            `export.max_logit_difference`.
    """
    if recipe.train.lora is None:
        raise CheckRefused(
            "nothing to merge: the recipe trains all weights; run gguf, which reads the -model artefact directly"
        )
    if recipe.model.path is None:
        raise UserError("merge needs the base that the adapter was trained on: set model.path")
    base = checkpoint_directory(recipe.model.path, recipe.model.revision)
    adapters = adapters_of(recipe)
    fingerprint = base_fingerprint(base)
    for adapter in adapters:
        check_base(adapter, recipe.model.path, fingerprint)
    # Without paths: base and adapters are inputs, which are known by what is in them and may be moved.
    settings = {
        "model": recipe.model.model_dump(include={"trust_remote_code"}),
        "export": recipe.export.model_dump(include={"dtype", "max_logit_difference"}),
        "weights": [adapter.weight for adapter in adapters],
    }
    inputs: dict[str, Path | str] = {"base": identify_base(recipe.model)}
    inputs |= {f"adapter {number}": adapter.directory for number, adapter in enumerate(adapters)}
    with stage_directory(
        recipe.artifact("merged"), stage="merge", recipe=settings, inputs=inputs, replace=replace
    ) as work:
        if not work.done:
            weights = MergedWeights(Checkpoint(base), combine(adapters), recipe.model.trust_remote_code)
            dtype: torch.dtype = getattr(torch, recipe.export.dtype)
            # `verify` writes the merged weights once more, in float32.
            check_size = weights.size(torch.float32) if dtype != torch.float32 else 0
            require_space(work.path, weights.size(dtype) + check_size, f"merging {recipe.full_name}")
            weights.write(work.path, dtype)
            copy_side_files(base, recipe.trained, work.path)
            work.metrics.update(verify(recipe, weights, work.path))
    return work.target


def adapters_of(recipe: Recipe) -> list[LoraAdapter]:
    """Return the recipe's own adapter and those of `export.adapters`, each once, with their weights.

    Raises:
        UserError: two paths of `export.adapters` name the same directory.
    """
    listed: dict[Path, LoraAdapter] = {}
    for path, weight in recipe.export.adapters.items():
        adapter = LoraAdapter(Path(path), weight)
        if (same := listed.setdefault(adapter.directory.resolve(), adapter)) is not adapter:
            raise UserError(f"export.adapters: {same.directory} and {path} are the same directory; list it once")
    own = listed.pop(recipe.trained.resolve(), LoraAdapter(recipe.trained))
    return [own, *listed.values()]


def check_base(adapter: LoraAdapter, base: str, fingerprint: str) -> None:
    """Refuse an adapter that was trained on another base than ``base``.

    The training stage leaves the base's fingerprint beside the adapter; for adapters from elsewhere there is only the
    name that PEFT wrote down.
    """
    if not adapter.directory.is_dir():
        raise UserError(f"there is no adapter {adapter.directory}; run train first, or correct export.adapters")
    record = adapter.directory / BASE_FILE
    if record.is_file():
        trained_on = json.loads(record.read_text(encoding="utf-8"))
        if trained_on["fingerprint"] != fingerprint:
            raise CheckRefused(
                f"adapter on the wrong base: {adapter.directory} was trained on {trained_on['path']}, "
                f"whose weights or config differ from those of {base} (model.path)"
            )
        return
    named = adapter.config().get("base_model_name_or_path")
    if named and named != base and Path(named).resolve() != Path(base).resolve():
        raise CheckRefused(f"adapter on the wrong base: {adapter.directory} names {named}, but model.path is {base}")
    log.warning(
        "%s has no %s, so only names and shapes show whether it belongs to %s", adapter.directory, BASE_FILE, base
    )


def copy_side_files(base: Path, adapter: Path, target: Path) -> None:
    """Copy tokenizer and generation settings, those the model was trained with before the base's own."""
    tokenizer = adapter if (adapter / "tokenizer_config.json").is_file() else base
    copy_present(tokenizer, target, TOKENIZER_FILES)
    generation = adapter if (adapter / "generation_config.json").is_file() else base
    copy_present(generation, target, ["generation_config.json"])
    copy_present(base, target, [path.name for path in base.glob("*.py")])


def verify(recipe: Recipe, weights: MergedWeights, merged: Path) -> dict[str, Any]:
    """Compare the merged model with base plus adapters on held-out tokens.

    The bound holds for the float32 sums, before they are rounded to `export.dtype`; what the rounding costs is reported
    beside it. Where float32 does not fit the machine, both run in bfloat16 and the bound is on KL.

    Returns:
        figures for the manifest.

    Raises:
        CheckRefused: the difference is above the bound.
    """
    from transformers import AutoTokenizer

    trust = recipe.model.trust_remote_code
    rows = comparison_rows(recipe, AutoTokenizer.from_pretrained(merged, trust_remote_code=trust))
    place = comparison_place(weights.base.parameters)
    # Read from the recipe once more, not from the list that was merged: a mistake in it would be on both sides.
    asked = {recipe.trained.resolve(): 1.0} | {Path(path).resolve(): w for path, w in recipe.export.adapters.items()}
    unmerged = logits_of(lambda: unmerged_model(weights, asked, place, trust), rows)
    published = agreement(unmerged, logits_of(lambda: load_model(merged, place, trust), rows))
    exact = published
    if place.exact and recipe.export.dtype != "float32":
        # What is published has been rounded, and no bound on logits tells rounding from a mistake. So the sums are
        # written once more unrounded, compared, and deleted.
        unrounded = merged / "float32"
        weights.write(unrounded, torch.float32)
        copy_present(merged, unrounded, [path.name for path in merged.glob("*.py")])
        exact = agreement(unmerged, logits_of(lambda: load_model(unrounded, place, trust), rows))
        shutil.rmtree(unrounded)
    _refuse_difference(recipe, exact, place)
    differ = f"logits differ by at most {exact.max_difference:.2g}, as published by {published.max_difference:.2g}"
    log.info("comparison of the merged model with base + adapter on %d tokens: %s", exact.tokens, differ)
    return {
        "adapters": {str(adapter.directory): adapter.weight for adapter in adapters_of(recipe)},
        "changed_tensors": len(weights.changes),
        "untied": weights.untied,
        "comparison_dtype": str(place.dtype).removeprefix("torch."),
        "max_logit_difference": exact.max_difference,
        "before_rounding": exact.as_dict() if place.exact else None,
        "published": {"dtype": recipe.export.dtype, **published.as_dict()},
    }


def _refuse_difference(recipe: Recipe, exact: Agreement, place: ComparisonPlace) -> None:
    bound = recipe.export.max_logit_difference
    if place.exact and exact.max_difference > bound:
        raise CheckRefused(
            f"the merged model's logits differ from base + adapter by up to {exact.max_difference:.3g} on "
            f"{exact.tokens} tokens; export.max_logit_difference is {bound:g}, so nothing was published"
        )
    if not place.exact and exact.kl > MAX_KL_BFLOAT16:
        raise CheckRefused(
            f"the merged model's KL to base + adapter is {exact.kl:.3g} nats per token on {exact.tokens} tokens "
            f"(both in bfloat16, bound {MAX_KL_BFLOAT16:g}); nothing was published"
        )


def unmerged_model(
    weights: MergedWeights, adapters: Mapping[Path, float], place: ComparisonPlace, trust_remote_code: bool
) -> Any:
    """Return the base with all adapters active at their weights, as PEFT runs it."""
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    model: Any = load_model(weights.base.directory, place, trust_remote_code)
    if weights.vocabulary != model.get_input_embeddings().weight.shape[0]:
        # The adapter brings the new rows itself, so there is no need to start them at the mean of the old ones.
        model.resize_token_embeddings(weights.vocabulary, mean_resizing=False)
    named = {str(number): directory for number, directory in enumerate(adapters)}
    model = PeftModel.from_pretrained(model, named["0"], adapter_name="0")
    for name in list(named)[1:]:
        model.load_adapter(named[name], adapter_name=name)
    if len(named) > 1:
        # PeftModel.set_adapter takes a single name; the tuner under it takes a list.
        model.base_model.set_adapter(list(named))
    # PEFT adds active adapters with weight 1, so each one's weight goes into its scale.
    for layer in (module for module in model.modules() if isinstance(module, LoraLayer)):
        for name in named.keys() & layer.scaling.keys():
            layer.scaling[name] *= adapters[named[name]]
    return model.to(place.device).eval()
