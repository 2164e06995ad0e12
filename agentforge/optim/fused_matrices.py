"""Matrices that hold several in one: queries, keys and values, or an MLP's gate and up projections.

Muon must see them apart. Orthogonalised together, the three share one set of singular values, and the largest of them
decides how far the others move. Where the rows lie is a matter of the model's code, so only layouts are here that a
test proves on a running model: an attention without values is silent, and one without queries does not see its keys.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from agentforge.optim.muon_rules import FUSED_NAME


@dataclass(frozen=True)
class Blocks:
    """How a matrix is taken apart.

    Attributes:
        sizes: rows of each block; empty: the matrix is one block.
        order: row indices that bring the rows of a block together; None: they are together.
        transposed: its columns are meant (transformers' Conv1D stores inputs before outputs).
    """

    sizes: tuple[int, ...] = ()
    order: Tensor | None = None
    transposed: bool = False

    whole: ClassVar[Blocks]

    def apart(self, matrix: Tensor) -> list[Tensor]:
        """Return the blocks of a matrix."""
        if not self.sizes:
            return [matrix]
        rows = matrix.mT if self.transposed else matrix
        if self.order is not None:
            rows = rows[self.order.to(rows.device)]
        return list(rows.split(self.sizes))

    def together(self, blocks: list[Tensor]) -> Tensor:
        """Return the matrix of these blocks."""
        if not self.sizes:
            return blocks[0]
        rows = torch.cat(blocks)
        if self.order is not None:
            rows = torch.empty_like(rows).index_copy_(0, self.order.to(rows.device), rows)
        return rows.mT if self.transposed else rows


Blocks.whole = Blocks()


def _sections(*sizes: int, transposed: bool = False) -> Blocks:
    return Blocks(sizes, transposed=transposed)


def _interleaved(groups: int, *widths: int) -> Blocks:
    """Return blocks of which each of ``groups`` holds ``widths`` rows in turn: q k v, q k v ..."""
    rows = torch.arange(groups * sum(widths)).view(groups, sum(widths))
    order = torch.cat([part.reshape(-1) for part in rows.split(widths, dim=1)])
    return Blocks(tuple(groups * width for width in widths), order)


def _falcon(config: Any) -> Blocks:
    heads, dim = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    if config.new_decoder_architecture:  # groups of query heads, each followed by its key and value
        return _interleaved(config.num_kv_heads, heads // config.num_kv_heads * dim, dim, dim)
    return _sections(heads * dim, dim, dim) if config.multi_query else _interleaved(heads, dim, dim, dim)


def _phi3(config: Any) -> Blocks:
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return _sections(*(dim * n for n in (config.num_attention_heads, *[config.num_key_value_heads] * 2)))


def _by_head(config: Any) -> Blocks:
    dim = config.hidden_size // config.num_attention_heads
    return _interleaved(config.num_attention_heads, dim, dim, dim)


def _halves(config: Any) -> Blocks:
    return _sections(config.intermediate_size, config.intermediate_size)


LAYOUTS: dict[tuple[str, str], Callable[[Any], Blocks]] = {
    ("gpt2", "c_attn"): lambda config: _sections(*[config.n_embd] * 3, transposed=True),
    ("gpt_neox", "query_key_value"): _by_head,
    ("bloom", "query_key_value"): _by_head,
    ("falcon", "query_key_value"): _falcon,
    ("mpt", "Wqkv"): lambda config: _sections(*[config.d_model] * 3),
    ("phi3", "qkv_proj"): _phi3,
    ("phi3", "gate_up_proj"): _halves,
    ("glm", "gate_up_proj"): _halves,
    ("glm4", "gate_up_proj"): _halves,
}


def blocks_of(config: Any, module: str, matrix: Tensor) -> Blocks | None:
    """Return how a linear module's weight is taken apart; None: it is fused, and nobody has proved how.

    Args:
        config: of the model, or None.
        module: the module's own name, without the path before it.
        matrix: its weight.
    """
    known = LAYOUTS.get((str(getattr(config, "model_type", "")), module))
    if known is not None:
        found = known(config)
        # GPT-2 has a second c_attn, for cross-attention, with keys and values alone.
        return found if sum(found.sizes) == matrix.shape[1 if found.transposed else 0] else None
    return None if FUSED_NAME.search(module) else Blocks.whole
