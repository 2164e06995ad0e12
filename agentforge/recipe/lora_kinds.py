"""Kinds of LoRA that train and then cannot be merged, and options of `train.lora` that do not go together.

`merge` refuses such an adapter too, but only after the training has been paid for.
"""

from __future__ import annotations

from collections.abc import Iterator

from agentforge.recipe.arguments import show_value
from agentforge.recipe.schema import Recipe

PLAIN_STARTS = (True, False, "gaussian", "orthogonal")
"""Values of `init_lora_weights` that leave the base as it is and need no pass over the data."""
UNMERGED = {
    "lora_bias": "adds biases that the base's layers have no place for",
    "target_parameters": "adapts parameters that are no modules, such as fused experts",
    "layer_replication": "makes layers that the base does not have",
    "alora_invocation_tokens": "acts only behind some tokens, so no weight stands for it",
    "use_qalora": "averages the inputs of a layer, which a merged weight cannot do",
    "use_bdlora": "holds blocks that `merge` does not read",
    "arrow_config": "routes between adapters, so no weight stands for it",
    "velora_config": "compresses what `merge` has no reader for",
    "kasa_config": "has factors that `merge` does not read",
    "monteclora_config": "draws its weights at random, so no weight stands for it",
    "megatron_config": "needs Megatron's layers, which agentforge does not train",
}
"""Fields of `LoraConfig` whose adapters no checkpoint can hold, each with why."""


def lora_problems(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield keys below `train`, each with a sentence without it."""
    lora = recipe.train.lora
    if lora is None:
        return
    for name, why in UNMERGED.items():
        if lora.get(name) not in (None, False, []):  # an empty mapping switches a kind on, with its defaults
            yield f"lora.{name}", f"makes an adapter that `agentforge merge` cannot merge: it {why}; leave it out"
    start = lora.get("init_lora_weights", True)
    if start not in PLAIN_STARTS:
        yield (
            "lora.init_lora_weights",
            f"is {show_value(start)}, which changes the base's weights or needs a pass over the data, so that the "
            "adapter cannot be merged; leave it out, or set gaussian or orthogonal",
        )
    if start == "orthogonal" and lora.get("r", 8) % 2:
        yield "lora.r", f"is {lora.get('r', 8)}; with init_lora_weights orthogonal it must be even"
    targets = lora.get("target_modules")
    for name in ("layers_to_transform", "layers_pattern"):
        if lora.get(name) is not None and isinstance(targets, str):
            yield (
                f"lora.{name}",
                f"has no effect where target_modules is text ({show_value(targets)}); list the names of modules",
            )
    if lora.get("layers_pattern") and lora.get("layers_to_transform") is None:
        yield "lora.layers_pattern", "has no effect without layers_to_transform; leave it out"
    if targets is not None and not targets:
        yield "lora.target_modules", "is empty, so that nothing would be trained; name modules, or set all-linear"
    for name in ("rank_pattern", "alpha_pattern"):
        for key, value in (lora.get(name) or {}).items():
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole or value < 1:
                yield f"lora.{name}", f"has {show_value(value)} for '{key}'; it must be a whole number of at least 1"
