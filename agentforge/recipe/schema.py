"""The sections of a recipe, as pydantic models. Unknown keys are refused; `loading` names the nearest right one.

Only names, types and defaults live here. `train.args`, `train.lora` and the like are handed to the parent library's
config class and are checked by `recipe.arguments` against the tables of that class's fields. What belongs to one model
family is not here either: its system brings the keys, and `with_system_keys` adds them where the sections are defined.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from agentforge.recipe.data_section import Data as Data
from agentforge.recipe.data_section import DataStage as DataStage
from agentforge.recipe.data_section import Decontaminate as Decontaminate
from agentforge.recipe.data_section import Filters as Filters
from agentforge.recipe.data_section import MinHash as MinHash
from agentforge.recipe.data_section import Source as Source
from agentforge.recipe.hardware import Rented
from agentforge.recipe.launch import Launch
from agentforge.recipe.methods import METHODS
from agentforge.recipe.rollouts_section import VLLM as VLLM
from agentforge.recipe.rollouts_section import Rollouts as Rollouts
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
    """What a run may use. `plan` and `train` refuse a recipe whose estimate is higher."""

    max_cost: float | None = Field(None, gt=0, description="dollars")
    max_hours: float | None = Field(None, gt=0, description="wall-clock hours")


class TokenizerTraining(Section):
    """A byte-level BPE that `prepare` trains on the mix, for a base model from scratch."""

    vocab_size: int = Field(4096, ge=384)
    max_characters: int = Field(8_000_000, ge=10_000, description="how many characters of the mix it reads")


class Model(Section):
    path: str | None = Field(
        None, description="Hub id or directory of the base; none: a model from scratch, from `config`"
    )
    revision: str | None = Field(None, description="commit or tag of a Hub id")
    dtype: Literal["bfloat16", "float32", "float16"] = "bfloat16"
    attn_implementation: str | None = Field(None, description="sdpa, flash_attention_2, kernels-community/...")
    config: dict[str, Any] = Field(
        default_factory=dict, description="for a model from scratch: fields of its transformers config (model_type ...)"
    )
    tokenizer: str | TokenizerTraining | None = Field(
        None, description="path, Hub id, a system's tokenizer, or {vocab_size: ...} to train one; none: the model's own"
    )
    quantize: Literal["nf4"] | None = Field(None, description="nf4: 4-bit base weights under LoRA (QLoRA); needs CUDA")
    trust_remote_code: bool = False
    history: list[str] = Field(
        default_factory=list,
        description="operations and training methods that must have made the checkpoint, in order",
    )


class Collect(Section):
    """Which episodes `collect` plays and keeps as training rows."""

    policy: str = Field("expert", description="expert, a baseline (random ...), base, lora, merged ... or a path")
    episodes: int = Field(100, ge=1, description="how many to try per environment; those that reach min_score are kept")
    min_score: float = Field(1.0, ge=0, le=1)
    environments: list[str] | None = Field(None, description="which of `environments`; none: all")


class Reward(Section):
    function: str = Field("outcome", description="outcome, spec_shaping, potential, or package.module:function")
    weight: float = 1.0
    options: dict[str, Any] = Field(default_factory=dict)


class Curriculum(Section):
    """Add the next difficulty once the present one is mastered."""

    start: int = Field(0, ge=0, description="first difficulty")
    threshold: float = Field(0.7, gt=0, le=1, description="success rate at which the next difficulty is added")
    window: int = Field(64, ge=1, description="episodes over which the rate is measured")


class Collapse(Section):
    """When to stop a run because the policy is collapsing. The last checkpoint is from before."""

    min_valid_actions: float = Field(0.2, ge=0, le=1, description="smallest share of turns with a valid action")
    max_length_growth: float = Field(
        4.0, gt=1, description="largest ratio of a turn's mean tokens to those of the first steps"
    )
    max_kl: float | None = Field(None, gt=0, description="largest KL to the reference, in nats per token")
    patience: int = Field(5, ge=1, description="how many logged steps in a row")


class Optimizer(Section):
    """An optimiser of agentforge or of a system, in place of those of `train.args.optim`."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict, description="its options")


class Keep(Section):
    """Models that stay in the artefact beside the final one: `epoch-10`, `best`."""

    epochs: int | None = Field(None, ge=1, description="keep the model after every so many epochs; none: of no epoch")
    best: bool = Field(False, description="keep the model with the lowest eval loss of all evaluations")


@with_system_keys("train")
class Train(Section):
    method: MethodName = "sft"
    args: dict[str, Any] = Field(
        default_factory=dict, description="fields of the method's config class (TrainingArguments, SFTConfig ...)"
    )
    lora: dict[str, Any] | None = Field(None, description="fields of peft.LoraConfig; none: all weights are trained")
    optimizer: Optimizer | None = Field(
        None, description="mugrokfast, or one that a system brings; none: `train.args.optim`"
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="decay of a moving average of the weights, which is evaluated and published; none: no average",
    )
    keep: Keep | None = Field(None, description="models that stay beside the final one; none: only the final one")
    launch: Launch = Field(
        "auto",
        description="how processes share the work: ddp, fsdp2, zero2, zero3; none: one process; auto: what fits",
    )
    processes: int | None = Field(None, ge=1, description="on each machine; none: one for each GPU of `hardware`")
    max_nonfinite_steps: int = Field(3, ge=1, description="stop after this many skipped NaN/inf batches in a row")
    watchdog_minutes: float | None = Field(
        30.0, gt=0, description="end a run in which nothing has got on for this long: it hangs; none: wait for ever"
    )
    trainable: list[str] = Field(
        default_factory=list,
        description="patterns of parameter names (*.mamba.*); all others are frozen; none: train all",
    )
    episodes: list[str] = Field(
        default_factory=list, description="dpo, kto: directories made by `collect`; none: this recipe's own"
    )
    preferences: list[Source] = Field(
        default_factory=list,
        description="dpo, kto: files or data sets of preferences, read instead of episodes; `weight` has no effect",
    )
    rewards: list[Reward] = Field([Reward()], description="grpo, ppo: rewards, summed with their weights")
    curriculum: Curriculum | None = None
    collapse: Collapse | None = Collapse()

    @model_validator(mode="after")
    def _one_kind_of_preferences(self) -> Train:
        if self.preferences and self.episodes:
            raise ValueError("episodes and preferences are both set; leave one out")
        if self.preferences and METHODS[self.method].reads != "pairs":
            raise ValueError(f"preferences are read by dpo and kto, not by {self.method}; put the files into data.mix")
        return self


class ToolCalls(Section):
    """Held-out conversations; in each, the assistant's next turn must be the given tool call."""

    prompts: str = Field(description="JSONL file of messages; each assistant call is one question")
    max_new_tokens: int = Field(160, ge=1)
    temperature: float = Field(0.0, ge=0)
    limit: int | None = Field(None, ge=1)


class Environments(Section):
    """Reserved tasks of the recipe's environments."""

    tasks: int = Field(100, ge=1, description="tasks per environment; if fewer are reserved, all of them")
    names: list[str] | None = Field(None, description="which of `environments`; none: all")
    temperature: float = Field(0.0, ge=0)
    samples: int = Field(1, ge=1, description="episodes per task")


@with_system_keys("evaluate.loss")
class Losses(Section):
    """Next-token loss on the eval rows of the recipe's prepared data."""

    rows: int | None = Field(None, ge=2, description="how many rows; none: all")
    speed: bool = Field(False, description="also measure decoding, in milliseconds per token")


class Answers(Section):
    """Held-out rows of the prepared data, to be answered and read: what the training changed."""

    rows: int = Field(5, ge=1, description="how many, spread over the eval rows")
    max_new_tokens: int = Field(128, ge=1)


class Benchmarks(Section):
    """Published tasks, asked and scored by EleutherAI's lm-evaluation-harness (docs/benchmarks.md)."""

    tasks: list[str] = Field(
        min_length=1, description="names of lm-eval's tasks or of configs/benchmarks, or paths of task files (.yaml)"
    )
    num_fewshot: int | None = Field(
        None, ge=0, description="worked examples before each question; none: as many as the task says"
    )
    limit: int | None = Field(None, ge=1, description="the first rows of each task only; none: all")
    max_new_tokens: int | None = Field(
        None, ge=1, description="longest written answer; none: what the task says, else 256"
    )
    apply_chat_template: bool = Field(False, description="ask in the model's chat template instead of plain text")


class Diversity(Section):
    """Whether the models of a set differ more than models that differ by the seed of their training alone."""

    models: dict[str, str] = Field(description="label: directory of a checkpoint; at least two, with one tokenizer")
    control: dict[str, str] = Field(
        default_factory=dict, description="the same of models that differ by seed alone; none: there is no verdict"
    )
    rows: int | None = Field(None, ge=2, description="how many of the prepared eval rows; none: all")
    speed: bool = Field(True, description="also measure decoding, in milliseconds per token")

    @field_validator("models", "control")
    @classmethod
    def _at_least_two(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        if len(value) == 1 or (info.field_name == "models" and not value):
            raise ValueError(f"name at least two models; there {'is one' if value else 'are none'}")
        return value


class BitsPerByte(Section):
    """Bits per byte of a whole text, which compares models of any tokenizer, and compressors."""

    text: Source = Field(description="the text: an entry like those of data.mix")
    training: Source | None = Field(
        None, description="what the model was trained on: the compressors read it first, too; none: they read the text"
    )
    context: int = Field(1024, ge=2, description="tokens that the model reads at once")
    stride: int = Field(512, ge=1, description="tokens that each reading scores; the others are its context")
    max_bytes: int | None = Field(None, ge=1, description="read no more of the text; none: all")
    compressors: bool = Field(True, description="measure gzip, bzip2, xz, zstd and PPMd on the same bytes")


class Export(Section):
    dtype: Literal["bfloat16", "float32", "float16"] = "bfloat16"
    max_logit_difference: float = Field(
        1e-3, gt=0, description="largest difference between merged and unmerged model, in fp32; a larger one is refused"
    )
    adapters: dict[str, float] = Field(default_factory=dict, description="more adapters to merge, with their weights")
    gguf: list[Quantization] = Field(["q8", "q4km"])
    # Bounds for damage, not for quality: a converter's mistake misses them by far, a sound quantisation keeps them.
    max_kl: dict[Quantization, float] = Field(
        {"f16": 1e-3, "q8": 5e-3, "q5km": 0.03, "q4km": 0.08},
        description="largest mean KL(HF || GGUF), in nats per token; above it nothing is published",
    )
    min_top1: dict[Quantization, float] = Field(
        {"f16": 0.98, "q8": 0.95, "q5km": 0.88, "q4km": 0.80},
        description="smallest share of tokens with the same likeliest next token; below it nothing is published",
    )
    max_difference: dict[Quantization, float] = Field(
        {"f16": 0.05, "q8": 0.5, "q5km": 2.0, "q4km": 4.0},
        description="largest difference of any logit, in standard deviations of the checkpoint's; above it nothing is "
        "published",
    )
    hub_repo: str | None = Field(None, description="ORG/NAME: the repository for `push`")
    license: str | None = None


@with_system_keys("surgery")
class Surgery(Section):
    """One operation on the checkpoint `model.path`. Its result is proved before it is published."""

    operation: OperationName
    max_logit_difference: float = Field(
        1e-5,
        ge=0,
        description="for operations that keep the function: largest difference to the old model in fp32, multiplied by "
        "its largest logit if that is above 1; a larger difference is refused",
    )


@with_system_keys("evaluate")
class Evaluate(Section):
    tool_calls: ToolCalls | None = None
    environments: Environments | None = None
    loss: Losses | None = None
    answers: Answers | None = None
    bpc: BitsPerByte | None = None
    benchmarks: Benchmarks | None = None
    diversity: Diversity | None = Field(
        None, description="compare a set of models; everything else in this section scores one model"
    )
    confidence: float = Field(0.8, gt=0, lt=1, description="mass of the Beta-Jeffreys interval")
    batch_size: int = Field(16, ge=1)


class Stage(Section):
    """One step of `run`: a verb, and the recipe that it reads."""

    verb: Literal["download", "prepare", "surgery", "collect", "train", "evaluate", "merge", "gguf", "report"]
    recipe: str | None = None
    model: str | None = Field(None, description="for evaluate: base, lora, model, merged, q8, grafted ... or a path")


class Recipe(Section):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    version: str = Field("0.1.0", pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")
    description: str = ""
    seed: int = Field(42, ge=0, lt=2**32)
    output_dir: str = Field("runs", description="directory for all artefacts of this recipe")
    hardware: str | Rented = Field("cpu", description="configs/hardware/NAME.yaml; {name, provider}: at whose price")
    budget: Budget = Budget()
    model: Model = Model()
    data: Data = Data()
    train: Train = Train()
    environments: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="name: options, or null to switch it off; for a class of your own set class: package.module:Class",
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
        if suffix == "data" and self.data.prepared is not None:
            return Path(self.data.prepared)
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
