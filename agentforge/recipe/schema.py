"""The sections of a recipe, as pydantic models. Unknown keys are refused; `loading` names the nearest right one.

Only names, types and defaults live here. `train.args`, `train.lora` and the like are handed to the parent library's
config class and are checked by `recipe.arguments` against the tables of that class's fields. What belongs to one model
family is not here either: its system brings the keys, and `with_system_keys` adds them where the sections are defined.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from agentforge.recipe.methods import METHODS
from agentforge.recipe.section import Section
from agentforge.systems.registry import operations, with_system_keys

Quantization = Literal["f16", "q8", "q5km", "q4km"]
if TYPE_CHECKING:  # the type checker cannot read a table; what it need not know is that only these words are allowed
    MethodName = str
    OperationName = str
else:
    MethodName = Literal[tuple(METHODS)]
    OperationName = Literal[tuple(operations())]


class Budget(Section):
    """What a run may use; `plan` and `train` refuse a recipe that is estimated above it."""

    max_cost: float | None = Field(None, gt=0, description="dollars")
    max_hours: float | None = Field(None, gt=0, description="wall-clock hours")


class TokenizerTraining(Section):
    """A byte-level BPE trained by `prepare` on the mix, for a base model made from scratch."""

    vocab_size: int = Field(4096, ge=384)
    max_characters: int = Field(8_000_000, ge=10_000, description="characters of the mix that are read")


class Model(Section):
    path: str | None = Field(None, description="Hub id or directory of the base; none: made from `config`")
    revision: str | None = Field(None, description="commit or tag of a Hub id")
    dtype: Literal["bfloat16", "float32", "float16"] = "bfloat16"
    attn_implementation: str | None = Field(None, description="sdpa, flash_attention_2, kernels-community/... ")
    config: dict[str, Any] = Field(
        default_factory=dict, description="fields of the transformers config (model_type ...) of a model from scratch"
    )
    tokenizer: str | TokenizerTraining | None = Field(None, description="path or Hub id if not the model's own")
    quantize: Literal["nf4"] | None = Field(None, description="4-bit base weights under LoRA (QLoRA); needs CUDA")
    trust_remote_code: bool = False
    history: list[str] = Field(
        default_factory=list,
        description="what must have made the checkpoint, the last one last: surgery's operations and training methods",
    )


class Filters(Section):
    """What `prepare` rejects; every rejection is counted by reason."""

    languages: list[str] = Field(default_factory=list, description="values allowed in the row's language column")
    min_characters: int = Field(1, ge=0, description="of all assistant turns together")
    max_turns: int | None = Field(None, ge=1)
    where: dict[str, Any] = Field(default_factory=dict, description="column: value (or list of values) to keep")
    max_ngram_repetition: float = Field(0.5, gt=0, le=1, description="share of a row's 10-grams that are duplicates")
    identities: list[str] = Field(default_factory=list, description="names a foreign assistant calls itself by")


class Source(Section):
    """One line of `data.mix`: an id of the registry (configs/datasets), a path or a glob of local files."""

    dataset: str
    weight: float = Field(1.0, gt=0)
    split: str | None = None
    adapter: str | None = Field(None, description="how a raw row becomes messages; found by itself for known shapes")
    columns: dict[str, str] = Field(default_factory=dict, description="adapter's name: the file's name")
    max_repeats: float | None = Field(None, gt=0, description="overrides data.max_repeats")
    max_rows: int | None = Field(None, ge=1)
    split_key: str | None = Field(None, description="column whose equal values stay on one side of train | eval")
    filters: Filters | None = Field(None, description="overrides the registry's")
    system: str | None = Field(None, description="system turn for rows that have none")
    enabled: bool | None = Field(None, description="true switches on a data set that the registry has off")


class MinHash(Section):
    """Near-duplicate removal: 14 bands of 8 rows find a pair of Jaccard 0.8 with probability 0.92."""

    enabled: bool = True
    ngram: int = Field(5, ge=1, description="words")
    bands: int = Field(14, ge=1)
    rows: int = Field(8, ge=1)
    threshold: float = Field(0.8, gt=0, le=1, description="estimated Jaccard above which the later row is dropped")


class Decontaminate(Section):
    against: list[str] = Field(default_factory=list, description="registry ids or files that must not be trained on")
    # Thirteen words of English are hardly ever equal by chance; fewer would throw out rows that merely quote an idiom.
    ngram: int = Field(13, ge=3, description="words")


@with_system_keys("data")
class Data(Section):
    max_length: int = Field(2048, ge=16, description="tokens")
    mix: list[Source] = Field(default_factory=list)
    weights: Literal["rows", "tokens"] = "rows"
    size: int | None = Field(None, ge=1, description="rows or tokens of the mix; none: as many as max_repeats allows")
    max_repeats: float = Field(4.0, gt=0)
    hub_mirror: str | None = Field(None, description="directory laid out like the Hub: ORG/NAME/files")
    allow_missing: bool = False
    max_bad_rows: float = Field(0.01, ge=0, le=1, description="share of unreadable rows at which `prepare` stops")
    filters: Filters = Filters()
    minhash: MinHash = MinHash()
    decontaminate: Decontaminate = Decontaminate()
    eval_fraction: float = Field(0.01, ge=0, lt=1)
    # Of conversations only: a document is always split, because each of its parts can be trained on.
    overflow: Literal["truncate", "split", "drop"] = "truncate"
    # `auto` takes the markers that the tokenizer has as single tokens.
    template: Literal["auto", "chatml", "deepseek_r1"] = "auto"
    tools: str | None = Field(None, description="tool registry (configs/tools/NAME.yaml) offered in rows without tools")
    system: str | None = Field(None, description="system turn for rows that have none")
    workers: int | None = Field(None, ge=1, description="processes; none: one per core")


class Rollouts(Section):
    """How a model plays episodes, wherever it does: collecting, training, evaluating."""

    max_new_tokens: int = Field(256, ge=1, description="of one turn")
    max_length: int | None = Field(None, ge=16, description="tokens of a whole episode; none: data.max_length")
    batch_size: int = Field(16, ge=1, description="episodes played at once")
    temperature: float = Field(1.0, ge=0, description="while collecting and training; evaluate has its own")
    top_p: float = Field(1.0, gt=0, le=1)
    act: Literal["text", "tool"] = Field("text", description="actions as plain text, or as calls of one tool")
    engine: Literal["transformers", "vllm"] = Field(
        "transformers",
        description="what runs a checkpoint that collects or is evaluated; vllm needs its extra and CUDA",
    )


class Collect(Section):
    """Episodes as training rows."""

    policy: str = Field("expert", description="expert, a baseline (random ...), base, lora, merged ... or a path")
    episodes: int = Field(100, ge=1, description="tried per environment; those that pass the filters are kept")
    min_score: float = Field(1.0, ge=0, le=1)
    environments: list[str] | None = Field(None, description="names out of `environments`; none: all")


class Reward(Section):
    function: str = Field("outcome", description="outcome, spec_shaping, potential, or package.module:function")
    weight: float = 1.0
    options: dict[str, Any] = Field(default_factory=dict)


class Curriculum(Section):
    """Tasks of the next difficulty once the present one is mastered."""

    start: int = Field(0, ge=0, description="difficulty at which training begins")
    threshold: float = Field(0.7, gt=0, le=1, description="success rate at which the next level is added")
    window: int = Field(64, ge=1, description="episodes over which the rate is measured")


class Collapse(Section):
    """When a run is stopped because the policy is falling apart; the last checkpoint is from before."""

    min_valid_actions: float = Field(0.2, ge=0, le=1, description="share of turns with a valid action")
    max_length_growth: float = Field(4.0, gt=1, description="mean tokens of a turn against the first steps")
    max_kl: float | None = Field(None, gt=0, description="nats a token to the reference")
    patience: int = Field(5, ge=1, description="logged steps in a row")


class Optimizer(Section):
    """An optimiser that a system brings."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict, description="arguments of its constructor")


@with_system_keys("train")
class Train(Section):
    method: MethodName = "sft"
    args: dict[str, Any] = Field(default_factory=dict, description="fields of TrainingArguments, SFTConfig ...")
    lora: dict[str, Any] | None = Field(None, description="fields of peft.LoraConfig; none: all weights are trained")
    optimizer: Optimizer | None = Field(None, description="one that a system brings; none: `train.args.optim`")
    ema: float | None = Field(
        None, gt=0, lt=1, description="decay of an average of the weights, which is evaluated and published; none: none"
    )
    max_nonfinite_steps: int = Field(3, ge=1, description="skipped NaN/inf batches in a row at which the run stops")
    trainable: list[str] = Field(
        default_factory=list, description="patterns of parameters' names (*.mamba.*), the rest is frozen; none: all"
    )
    episodes: list[str] = Field(
        default_factory=list, description="dpo, kto: directories that `collect` made; none: this recipe's own"
    )
    rewards: list[Reward] = Field([Reward()], description="grpo, ppo: summed with their weights")
    curriculum: Curriculum | None = None
    collapse: Collapse | None = Collapse()


class ToolCalls(Section):
    """Held-out conversations: the assistant's next turn must be a given tool call."""

    prompts: str = Field(description="JSONL of messages; each assistant call is one question")
    max_new_tokens: int = Field(160, ge=1)
    temperature: float = Field(0.0, ge=0)
    limit: int | None = Field(None, ge=1)


class Environments(Section):
    """Reserved tasks of the recipe's environments."""

    tasks: int = Field(100, ge=1, description="per environment; where fewer are reserved, all of them")
    names: list[str] | None = Field(None, description="names out of `environments`; none: all")
    temperature: float = Field(0.0, ge=0)
    samples: int = Field(1, ge=1, description="episodes per task")


@with_system_keys("evaluate.loss")
class Losses(Section):
    """Next-token loss on the eval rows of the recipe's prepared data."""

    rows: int | None = Field(None, ge=2, description="so many of them; none: all")
    speed: bool = Field(False, description="also milliseconds a token of decoding")


class Export(Section):
    dtype: Literal["bfloat16", "float32", "float16"] = "bfloat16"
    max_logit_difference: float = Field(1e-3, gt=0, description="merged against unmerged, fp32; above: refused")
    adapters: dict[str, float] = Field(default_factory=dict, description="further adapters and their weights")
    gguf: list[Quantization] = Field(["q8", "q4km"])
    # Bounds for damage, not for quality: a converter's mistake misses them by far, a sound quantisation keeps them.
    max_kl: dict[Quantization, float] = Field(
        {"f16": 1e-3, "q8": 5e-3, "q5km": 0.03, "q4km": 0.08},
        description="mean KL(HF || GGUF) in nats a token; above: not published",
    )
    min_top1: dict[Quantization, float] = Field(
        {"f16": 0.98, "q8": 0.95, "q5km": 0.88, "q4km": 0.80},
        description="share of tokens whose likeliest next token is the same; below: not published",
    )
    hub_repo: str | None = Field(None, description="ORG/NAME that `push` uploads to")
    license: str | None = None


@with_system_keys("surgery")
class Surgery(Section):
    """One operation on the checkpoint `model.path`, proved before it is published."""

    operation: OperationName
    max_logit_difference: float = Field(
        1e-5,
        ge=0,
        description="operations that keep the function: against the old model in fp32, times its largest logit where "
        "that is above 1; above: refused",
    )


@with_system_keys("evaluate")
class Evaluate(Section):
    tool_calls: ToolCalls | None = None
    environments: Environments | None = None
    loss: Losses | None = None
    confidence: float = Field(0.8, gt=0, lt=1, description="mass of the Beta-Jeffreys interval")
    batch_size: int = Field(16, ge=1)


class Stage(Section):
    """One step of `run`: a verb, and the recipe it reads if not this one."""

    verb: Literal["download", "prepare", "surgery", "collect", "train", "evaluate", "merge", "gguf", "report"]
    recipe: str | None = None
    model: str | None = Field(None, description="for evaluate: base, model, merged, q8, grafted ... or a path")


class Recipe(Section):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    version: str = Field("0.1.0", pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")
    description: str = ""
    seed: int = Field(42, ge=0, lt=2**32)
    output_dir: str = Field("runs", description="directory of all this recipe's artefacts")
    hardware: str = Field("cpu", description="configs/hardware/NAME.yaml")
    budget: Budget = Budget()
    model: Model = Model()
    data: Data = Data()
    train: Train = Train()
    environments: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="name: options, null switches one off; a class of your own as class: package.module:Class",
        json_schema_extra={"additionalProperties": {"type": ["object", "null"]}},
    )
    rollouts: Rollouts = Rollouts()
    collect: Collect = Collect()
    evaluate: Evaluate = Evaluate()
    export: Export = Export()
    surgery: Surgery | None = None
    stages: list[Stage] = Field(default_factory=list)

    @field_validator("environments", mode="before")
    @classmethod
    def _without_those_switched_off(cls, value: Any) -> Any:
        # A profile can add keys and change them, but not take them away; null is how it drops an environment.
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value

    @property
    def full_name(self) -> str:
        """Name and version, the stem of every artefact: ``AJ-DeepSeekR1Qwen32B-v2.0.0``."""
        return f"{self.name}-v{self.version}"

    def artifact(self, suffix: str) -> Path:
        """The directory of one artefact: ``runs/aj/AJ-DeepSeekR1Qwen32B-v2.0.0-merged``."""
        return Path(self.output_dir) / f"{self.full_name}-{suffix}"

    @property
    def episode_length(self) -> int:
        """Tokens that an episode may have, wherever it is played: while collecting, training and evaluating."""
        return self.rollouts.max_length or self.data.max_length

    @property
    def row_length(self) -> int:
        """Tokens that a training row may have: an episode where they are played (PPO, GRPO), else a prepared row."""
        return self.episode_length if METHODS[self.train.method].plays else self.data.max_length

    @property
    def operated(self) -> Path:
        """What `surgery` makes: ``-grafted``, ``-expanded``, ``-width-1of2``, ``-depth-4``, ``-ordered`` ..."""
        if self.surgery is None:
            return self.artifact("operated")
        return self.artifact(operations()[self.surgery.operation].suffix(self.surgery))

    @property
    def trained(self) -> Path:
        """What `train` makes: the adapter (``-lora``) or the whole model (``-model``)."""
        return self.artifact("lora" if self.train.lora is not None else "model")
