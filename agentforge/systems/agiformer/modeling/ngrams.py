"""Embeddings of the n-grams that end at a byte, in hashed tables whose rows cost memory and no arithmetic.

Pagnoni et al. (Byte Latent Transformer, arXiv 2412.09871, section 3.2.1). A table this large would take a small text by
heart; a whole n-gram is therefore forgotten now and then while training, so that the layers above cannot lean on it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agentforge.systems.agiformer.modeling.configuration import AgiformerConfig

_MULTIPLIERS = (0x9E3779B1, 0x85EBCA6B)  # odd constants of xxHash: neighbouring n-grams must fall far apart
_MASK = (1 << 62) - 1


def hashed(tokens: Tensor, size: int, buckets: int) -> Tensor:
    """Return the bucket `(R, T - size + 1)` of each n-gram of ``size`` tokens.

    Args:
        tokens: `(R, T)`.
        size: n.
        buckets: rows of the table.
    """
    length = tokens.shape[1] - size + 1
    key = torch.full_like(tokens[:, :length], size)
    for place in range(size):
        key = (key * _MULTIPLIERS[0] + tokens[:, place : place + length] + 1) & _MASK
    key = ((key ^ (key >> 29)) * _MULTIPLIERS[1]) & _MASK
    return ((key ^ (key >> 32)) & _MASK) % buckets


class NgramEmbeddings(nn.Module):
    """The sum of one row of each table."""

    def __init__(self, config: AgiformerConfig) -> None:
        super().__init__()
        self.sizes: list[int] = list(config.ngram_sizes)
        self.dropout, self.buckets = config.ngram_dropout, config.ngram_buckets
        self.tables = nn.ModuleList(nn.Embedding(config.ngram_buckets, config.hidden_size) for _ in self.sizes)

    def forward(self, tokens: Tensor, recent: Tensor) -> Tensor:
        """Return `(R, T, D)`.

        Args:
            tokens: `(R, T)`.
            recent: `(R, C)` the tokens before them, C >= the longest n-gram less 1.
        """
        together = torch.cat([recent, tokens], dim=1)
        found: Tensor | float = 0.0
        for size, table in zip(self.sizes, self.tables, strict=True):
            vectors = table(hashed(together[:, recent.shape[1] - size + 1 :], size, self.buckets))
            if self.training and self.dropout:
                kept = torch.rand(tokens.shape, device=tokens.device) >= self.dropout
                vectors = vectors * (kept / (1 - self.dropout))[..., None].to(vectors.dtype)
            found = found + vectors
        assert isinstance(found, Tensor)
        return found
