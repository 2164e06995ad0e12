"""Embeddings of the n-grams that end at a byte, in hashed tables whose rows cost memory and no arithmetic.

Pagnoni et al. (Byte Latent Transformer, arXiv 2412.09871, section 3.2.1). A table this large would take a small text by
heart; a whole n-gram is therefore forgotten now and then while training, so that the layers above cannot lean on it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from agentforge.systems.agiformer.modeling.configuration import AgiformerConfig

_MULTIPLIERS = (0x9E3779B1, 0x85EBCA6B)  # odd constants of xxHash: neighbouring n-grams must fall far apart
_MASK = (1 << 62) - 1


def ngram_keys(tokens: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return the keys `(R, T, S)` of the n-grams of S sizes that end at each token: numbers of 62 bits.

    Args:
        tokens: `(R, C + T)`: the first C, one less than the longest n-gram, are only read.
        sizes: n of each, ascending.
    """
    longest = sizes[-1]
    ended = tokens.unfold(1, longest, 1).flip(-1) + 1  # (R, T, longest), the last token first
    powers = [pow(_MULTIPLIERS[0], place, 1 << 40) for place in range(longest)]
    # A polynomial whose first n terms are the n-gram's: one running sum has the keys of all sizes. It may wrap around.
    keys = (ended * tokens.new_tensor(powers)).cumsum(-1)[..., [size - 1 for size in sizes]]
    keys = keys * _MULTIPLIERS[0] + tokens.new_tensor(sizes)
    keys = ((keys ^ (keys >> 29)) * _MULTIPLIERS[1]) & _MASK
    return keys ^ (keys >> 32)


class NgramTable(nn.Embedding):
    """The tables of all sizes, one below the other."""


class NgramEmbeddings(nn.Module):
    """The sum of one row for each size of n-gram."""

    def __init__(self, config: AgiformerConfig) -> None:
        super().__init__()
        self.sizes: list[int] = list(config.ngram_sizes)
        self.dropout, self.buckets = config.ngram_dropout, config.ngram_buckets
        self.table = NgramTable(len(self.sizes) * config.ngram_buckets, config.hidden_size)

    def forward(self, tokens: Tensor, recent: Tensor) -> Tensor:
        """Return `(R, T, D)`.

        Args:
            tokens: `(R, T)`.
            recent: `(R, C)` the tokens before them, C >= the longest n-gram less 1.
        """
        together = torch.cat([recent[:, recent.shape[1] - self.sizes[-1] + 1 :], tokens], dim=1)
        first_rows = torch.arange(len(self.sizes), device=tokens.device) * self.buckets
        vectors = self.table(ngram_keys(together, self.sizes) % self.buckets + first_rows)  # (R, T, S, D)
        if self.training and self.dropout:
            kept = torch.rand(vectors.shape[:-1], device=tokens.device) >= self.dropout
            return torch.einsum("rtsd,rts->rtd", vectors, (kept / (1 - self.dropout)).to(vectors.dtype))
        return vectors.sum(2)
