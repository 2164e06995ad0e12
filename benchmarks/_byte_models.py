"""Models of bytes with as many parameters as an AGIFORMER, for the benchmarks that compare it with them.

Every model has the AGIFORMER's number of layers. Its width is the multiple of a head's 32 channels at which MLPs of the
usual shape (8/3 of the width) come closest to the parameters wanted; the MLPs' width then makes up the rest. Tables of
n-grams are counted apart: they cost memory and no arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    FalconH1Config,
    FalconH1ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    MistralConfig,
    MistralModel,
)
from transformers.modeling_outputs import CausalLMOutput

from agentforge.systems.agiformer.modeling.causal_lm import AgiformerForCausalLM
from agentforge.systems.agiformer.modeling.configuration import AgiformerConfig
from agentforge.systems.agiformer.modeling.counted import CountedNgrams, row_keys
from agentforge.systems.agiformer.modeling.ngrams import NgramEmbeddings, ngram_keys
from agentforge.systems.agiformer.training.row_optimizer import tables_of

HEAD = 32
COUNTED, TABLES = ", counted", ", n-grams"
"""What a name ends with: n-grams counted, or learnt in tables."""
COUNTED_SIZES, NGRAM_SIZES = [2, 3, 4, 5, 6, 8], [2, 3, 4, 5, 6]
"""Where the config has none."""
WIDTHS = range(2 * HEAD, 1025, HEAD)
Build = Callable[[int, int], nn.Module]
"""From a width and a width of the MLPs to a model."""


class ByteModel(nn.Module):
    """What is asked of a model besides its forward pass."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.parameters()).device


class WithNgrams(ByteModel):
    """A flat model whose embeddings have AGIFORMER's n-grams added."""

    def __init__(self, flat: Any, config: AgiformerConfig) -> None:
        super().__init__()
        self.flat, self.config = flat, flat.config
        width = flat.config.hidden_size
        self.ngrams = NgramEmbeddings(AgiformerConfig(**{**config.to_dict(), "hidden_size": width}))
        _small(self.ngrams)

    def forward(self, input_ids: Tensor, **inputs: Any) -> Any:
        """Return what the flat model returns."""
        embedded = self.flat.get_input_embeddings()(input_ids) + _of_text(self.ngrams, input_ids)
        return self.flat(inputs_embeds=embedded, **inputs)


class WithCounts(ByteModel):
    """A flat model whose logits have AGIFORMER's counted n-grams added."""

    def __init__(self, flat: Any, config: AgiformerConfig) -> None:
        super().__init__()
        self.flat, self.config = flat, flat.config
        width = flat.config.hidden_size
        self.counted = CountedNgrams(AgiformerConfig(**{**config.to_dict(), "hidden_size": width}))
        _small(self.counted)

    def count(self, rows: Sequence[Sequence[int]]) -> None:
        """Count the training text."""
        self.counted.count(rows)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, **inputs: Any) -> CausalLMOutput:
        """Return logits `(B, T, V)` and the loss."""
        made = self.flat(input_ids=input_ids, output_hidden_states=True, **inputs)
        hidden, sizes = made.hidden_states[-1], self.counted.sizes
        before = input_ids.new_full((len(input_ids), sizes[-1] - 1), self.config.vocab_size)
        keys = ngram_keys(torch.cat([before, input_ids], dim=1), sizes)
        rows = row_keys(input_ids, torch.full((len(input_ids),), input_ids.shape[1]))
        left_out = (self.counted.left_out(rows) if self.training else rows * 0).repeat_interleave(input_ids.shape[1])
        logits = made.logits + self.counted(hidden.flatten(0, 1), keys.flatten(0, 1), left_out).view_as(made.logits)
        loss = None
        if labels is not None:
            loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)


class Hierarchy(ByteModel):
    """The least that is a causal hierarchy: Llama's layers over patches, one of Mistral's with a window over bytes.

    No linear attention, no thinking steps. A byte is decoded from the latent of the last complete patch before it.
    """

    def __init__(self, config: AgiformerConfig, width: int, mlp: int, ngrams: bool) -> None:
        super().__init__()
        self.patch = config.patch_size
        heads = width // HEAD
        sizes = {"vocab_size": config.vocab_size, "hidden_size": width, "intermediate_size": mlp, "head_dim": HEAD,
                 "num_attention_heads": heads, "num_key_value_heads": heads, "pad_token_id": None}  # fmt: skip
        self.config = LlamaConfig(**sizes)
        self.embed_tokens = nn.Embedding(config.vocab_size, width)
        self.patch_proj = nn.Linear(self.patch * width, width, bias=False)
        self.start = nn.Parameter(torch.zeros(width))
        self.above = LlamaModel(LlamaConfig(**sizes, num_hidden_layers=config.num_hidden_layers))
        self.up_proj = nn.Linear(width, self.patch * width, bias=False)
        self.below = MistralModel(MistralConfig(**sizes, num_hidden_layers=1, sliding_window=config.byte_window))
        self.above.embed_tokens = self.below.embed_tokens = nn.Identity()  # both are given vectors
        tables = AgiformerConfig(**{**config.to_dict(), "hidden_size": width})
        self.ngrams = NgramEmbeddings(tables) if ngrams else None
        self.lm_head = nn.Linear(width, config.vocab_size, bias=False)
        for module in (self.embed_tokens, self.patch_proj, self.up_proj, self.lm_head, self.ngrams):
            _small(module)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, use_cache: bool = False) -> CausalLMOutput:
        """Return logits `(B, T, V)`, of the next byte each, and the loss."""
        rows, length = input_ids.shape
        embedded = self.embed_tokens(input_ids)
        complete = length // self.patch
        patches = self.patch_proj(embedded[:, : complete * self.patch].reshape(rows, complete, -1))
        above = torch.cat([self.start.expand(rows, 1, -1), patches], dim=1)
        latents = self.above(inputs_embeds=above, use_cache=False).last_hidden_state
        # latent i is of the bytes of patch i, and byte t decodes byte t + 1
        inputs = embedded + self.up_proj(latents).view(rows, -1, embedded.shape[-1])[:, 1 : length + 1]
        if self.ngrams is not None:
            inputs = inputs + _of_text(self.ngrams, input_ids)
        logits = self.lm_head(self.below(inputs_embeds=inputs, use_cache=False).last_hidden_state)
        loss = None
        if labels is not None:
            loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)


def _small(module: nn.Module | None) -> None:
    for weight in [] if module is None else module.parameters():
        nn.init.normal_(weight, std=0.02)


def _of_text(ngrams: NgramEmbeddings, input_ids: Tensor) -> Tensor:
    before = torch.full((len(input_ids), max(ngrams.sizes)), 0, device=input_ids.device)
    return ngrams(input_ids, before)


def parameters(model: nn.Module) -> tuple[int, int]:
    """Return the parameters without the n-gram tables, and those of the tables."""
    tables = sum(table.weight.numel() for table in tables_of(model))
    return sum(weight.numel() for weight in model.parameters()) - tables, tables


def make(name: str, config: AgiformerConfig) -> nn.Module:
    """Return a model of `NAMES` with the parameters of the AGIFORMER of a config."""
    if name.startswith("AGIFORMER"):
        return AgiformerForCausalLM(_agiformer(name, config))
    with torch.device("meta"):
        wanted, _ = parameters(AgiformerForCausalLM(_agiformer("AGIFORMER", config)))
    return _fitted(_builder(name, config), wanted)


def _agiformer(name: str, config: AgiformerConfig) -> AgiformerConfig:
    sizes = {"ngram_sizes": [], "counted_sizes": []}
    if name.endswith(TABLES):
        sizes["ngram_sizes"] = config.ngram_sizes or NGRAM_SIZES
    if name.endswith(COUNTED):
        sizes["counted_sizes"] = config.counted_sizes or COUNTED_SIZES
    return AgiformerConfig(**{**config.to_dict(), **sizes})


def _builder(name: str, config: AgiformerConfig) -> Build:
    config = _agiformer(name, config)
    if name.startswith("hierarchy"):
        return lambda width, mlp: Hierarchy(config, width, mlp, ngrams=name.endswith(TABLES))
    if name == f"Llama{TABLES}":
        return lambda width, mlp: WithNgrams(_llama(config, width, mlp), config)
    if name == f"Llama{COUNTED}":
        return lambda width, mlp: WithCounts(_llama(config, width, mlp), config)
    return lambda width, mlp: {"Llama": _llama, "FalconH1": _falcon}[name](config, width, mlp)


def _fitted(build: Build, wanted: int) -> nn.Module:
    def mlp_of(width: int) -> int:
        with torch.device("meta"):
            (least, _), (more, _) = (parameters(build(width, size)) for size in (16, 32))
        return 16 + round(16 * (wanted - least) / (more - least))

    sizes = {width: mlp_of(width) for width in WIDTHS}
    width = min((width for width, mlp in sizes.items() if mlp >= 16), key=lambda w: abs(sizes[w] / w - 8 / 3))
    return build(width, sizes[width])


def _llama(config: AgiformerConfig, width: int, mlp: int) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=width,
            intermediate_size=mlp,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=width // HEAD,
            pad_token_id=config.pad_token_id,
        )
    )


def _falcon(config: AgiformerConfig, width: int, mlp: int) -> FalconH1ForCausalLM:
    heads = width // HEAD
    return FalconH1ForCausalLM(
        FalconH1Config(
            vocab_size=config.vocab_size,
            hidden_size=width,
            intermediate_size=mlp,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            head_dim=HEAD,
            mamba_d_ssm=width,
            mamba_n_heads=heads,
            mamba_d_head=HEAD,
            mamba_d_state=16,
            mamba_chunk_size=64,
            pad_token_id=config.pad_token_id,
        )
    )


NAMES = (
    f"AGIFORMER{COUNTED}",
    f"AGIFORMER{TABLES}",
    "AGIFORMER",
    "Llama",
    f"Llama{COUNTED}",
    f"Llama{TABLES}",
    "FalconH1",
    "hierarchy",
    f"hierarchy{TABLES}",
)
