"""Values that are each right, and together train nothing, train something else, or make the parent library stop.

TRL says some of it itself, but only when the model is loaded; some of it never: with `beta` 0 all gradients are zero,
and the run ends as a success with the weights that it began with.
"""

from __future__ import annotations

from collections.abc import Iterator

from agentforge.errors import did_you_mean
from agentforge.recipe.lora_kinds import lora_problems
from agentforge.recipe.methods import METHODS
from agentforge.recipe.rl_combinations import rl_problems
from agentforge.recipe.schedules import schedule_problem
from agentforge.recipe.schema import Recipe
from agentforge.recipe.section import is_default
from agentforge.systems.registry import system_keys

Problem = tuple[tuple[str, ...], str]

# Names for `attn_implementation`; a test compares with transformers.
ATTENTION = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention")
KL_LOSS = "kto"  # the only loss of KTOConfig that estimates a KL
CORRECTION = "vllm_importance_sampling"
OWN_TEMPERATURE = {"sft"}  # losses of DPOConfig without beta


def combination_problems(recipe: Recipe) -> list[Problem]:
    """Return what does not go together: the key, and a sentence that begins with it.

    Args:
        recipe: its `train.args` and `train.lora` have been checked one by one.
    """
    problems = [*_unread(recipe), *_of_every_method(recipe), *lora_problems(recipe)]
    if METHODS[recipe.train.method].reads == "pairs":
        problems += [*_reference(recipe), *_beta(recipe), *_of_preferences(recipe)]
        problems += _kto(recipe) if recipe.train.method == "kto" else _dpo(recipe)
    problems = [(f"train.{key}", text) for key, text in problems]
    problems += [*_names_of_environments(recipe), *_attention(recipe)]
    if METHODS[recipe.train.method].plays:
        problems += [*rl_problems(recipe), *_sampler(recipe)]
    return [(tuple(key.split(".")), f"{key} {text}") for key, text in problems]


def _unread(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield keys of the supervised methods under another one, which would not read them."""
    if METHODS[recipe.train.method].supervised:
        return
    readers = " and ".join(name for name, spec in METHODS.items() if spec.supervised)
    for key in ("trainable", "keep", *system_keys("train")):
        if not is_default(recipe.train, key):
            yield key, f"belongs to the methods {readers}; {recipe.train.method} does not read it"


def _of_every_method(recipe: Recipe) -> Iterator[tuple[str, str]]:
    train, args = recipe.train, recipe.train.args
    if train.trainable and train.lora is not None:
        yield "trainable", "trains the weights themselves; leave train.lora out"
    if recipe.model.quantize and train.lora is None:
        yield "lora", "is missing, and with model.quantize the 4-bit weights cannot be trained themselves; give it"
    if args.get("save_total_limit") == 1:
        yield (
            "args.save_total_limit",
            "is 1, which would delete the last good checkpoint before the next is complete; give 2",
        )
    if args.get("max_steps") == 0:
        yield "args.max_steps", "is 0, which means no limit; leave it out to train num_train_epochs"
    if args.get("packing_strategy", "bfd") != "bfd":
        yield "args.packing_strategy", "must be 'bfd': only that keeps every conversation whole; leave it out"
    if args.get("fp16") and args.get("bf16"):
        yield "args.fp16", "and train.args.bf16 are both true; leave one of them out"
    if problem := schedule_problem(args):
        yield "args.lr_scheduler_kwargs", problem


def _attention(recipe: Recipe) -> Iterator[tuple[str, str]]:
    name = recipe.model.attn_implementation
    # `org/name` is a kernel of the Hub
    if name is not None and name not in ATTENTION and "/" not in name:
        hint = did_you_mean(name, ATTENTION) or f"; it may be {', '.join(ATTENTION)}, or a kernel of the Hub (ORG/NAME)"
        yield "model.attn_implementation", f"is '{name}', which transformers does not have{hint}"


def _of_preferences(recipe: Recipe) -> Iterator[tuple[str, str]]:
    method, args = recipe.train.method, recipe.train.args
    if args.get("eval_strategy", "no") != "no":
        yield "args.eval_strategy", f"has no effect: {method} has no eval split; `agentforge evaluate` plays"
    if args.get("padding_free"):
        yield "args.padding_free", f"has no effect with {method}; leave it out"


def _names_of_environments(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield what is to be played and is not under `environments`."""
    known = list(recipe.environments)
    evaluated = recipe.evaluate.environments
    for key, names in (
        ("collect.environments", recipe.collect.environments),
        ("evaluate.environments.names", None if evaluated is None else evaluated.names),
    ):
        for name in names or []:
            if name not in known:
                hint = did_you_mean(name, known) or f"; there are: {', '.join(known) or 'none'}"
                yield key, f"names '{name}', which is not under `environments`{hint}"


def _sampler(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield what does not go with the engine that plays, or has no effect with it."""
    args, lora, vllm = recipe.train.args, recipe.train.lora or {}, recipe.rollouts.vllm
    corrections = sorted(key for key in args if key.startswith(CORRECTION))
    if recipe.rollouts.engine != "vllm":
        for key in corrections:
            yield (
                f"train.args.{key}",
                f"has no effect with rollouts.engine {recipe.rollouts.engine}, where the trainer itself plays; leave "
                "it out, or set the engine to vllm",
            )
        return
    if recipe.model.quantize is not None:
        yield (
            "model.quantize",
            f"is {recipe.model.quantize}, which leaves no whole weights to give to vLLM (rollouts.engine); leave one "
            "of them out",
        )
    if vllm.tensor_parallel > 1:
        yield (
            "rollouts.vllm.tensor_parallel",
            f"is {vllm.tensor_parallel}; in training each process has an engine of its own, so start a server with "
            "--tensor-parallel-size instead (mode: server)",
        )
    for key in ("use_dora", "trainable_token_indices"):
        if lora.get(key):
            yield f"train.lora.{key}", "is not merged into the weights that vLLM gets (rollouts.engine); leave it out"
    if recipe.data.add_tokens:
        yield (
            "data.add_tokens",
            "makes tokens that vLLM cannot add to the base (rollouts.engine); leave one out",
        )
    mode = args.get("vllm_importance_sampling_mode", "token_truncate")
    if args.get("loss_type") == "vespo" and mode.startswith("sequence"):
        yield (
            "train.args.vllm_importance_sampling_mode",
            f"is {mode}; the loss vespo needs token_truncate or token_mask",
        )
    if args.get("vllm_importance_sampling_correction") is False:
        for key in corrections:
            if key != "vllm_importance_sampling_correction":
                yield (
                    f"train.args.{key}",
                    "has no effect with vllm_importance_sampling_correction false; leave it out",
                )


def _losses(recipe: Recipe) -> list[str]:
    given = recipe.train.args.get("loss_type", "kto" if recipe.train.method == "kto" else "sigmoid")
    return [given] if isinstance(given, str) else list(given)


def _reference(recipe: Recipe) -> Iterator[tuple[str, str]]:
    args, lora = recipe.train.args, recipe.train.lora
    if args.get("sync_ref_model") and lora is not None:
        yield (
            "args.sync_ref_model",
            "needs a reference model of its own, and with train.lora the reference is the base without the adapter; "
            "leave out one of them",
        )
    elif args.get("sync_ref_model") and args.get("precompute_ref_log_probs"):
        yield "args.sync_ref_model", "changes the reference that precompute_ref_log_probs reads once; leave out one"
    targets = (lora or {}).get("target_modules")
    if isinstance(targets, list) and any(name.rpartition(".")[2] == "lm_head" for name in targets):
        yield (
            "lora.target_modules",
            f"names lm_head, whose adapter {recipe.train.method} would not train (its log-probabilities are computed "
            "from the head's own weight); leave it out",
        )


def _beta(recipe: Recipe) -> Iterator[tuple[str, str]]:
    if recipe.train.args.get("beta", 0.1) != 0:
        return
    for loss in _losses(recipe):
        if loss in ("ipo", "sppo_hard"):
            yield "args.beta", f"is 0, and the loss {loss} divides by it; give a value above 0 (the default is 0.1)"
        elif loss not in OWN_TEMPERATURE:
            yield (
                "args.beta",
                f"is 0, and the loss {loss} multiplies every gradient by it: nothing would be trained; give a value "
                "above 0 (the default is 0.1)",
            )


def _kto(recipe: Recipe) -> Iterator[tuple[str, str]]:
    args = recipe.train.args
    if KL_LOSS not in _losses(recipe):
        return
    if args.get("per_device_train_batch_size", 8) < 2:
        yield (
            "args.per_device_train_batch_size",
            "is 1; KTO estimates its KL from each row with another row's completion, so give at least 2",
        )
    if (strategy := args.get("train_sampling_strategy", "sequential")) != "sequential":
        yield (
            "args.train_sampling_strategy",
            f"is '{strategy}'; KTO's rows are paired in their order, which is shuffled once; leave it out",
        )


def _dpo(recipe: Recipe) -> Iterator[tuple[str, str]]:
    args, losses = recipe.train.args, _losses(recipe)
    if "exo_pair" in losses and args.get("label_smoothing", 0) == 0:
        yield "args.label_smoothing", "is 0; the loss exo_pair needs a value above it (its paper: 1.0e-3)"
    if args.get("use_weighting") and (sorting := {"aot", "aot_unpaired"} & set(losses)):
        yield "args.use_weighting", f"weighs pairs, and the loss {min(sorting)} takes them apart; leave out one of them"
    weights = args.get("loss_weights")
    if weights is not None and len(weights) != len(losses):
        yield (
            "args.loss_weights",
            f"has {len(weights)} weights for {len(losses)} losses in loss_type; give one for each",
        )
    divergent = {"sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft"}
    divergence = args.get("f_divergence_type", "reverse_kl")
    if divergence != "reverse_kl" and (others := sorted(set(losses) - divergent)):
        yield "args.f_divergence_type", f"is '{divergence}'; the loss {others[0]} does not have it: leave it out"
