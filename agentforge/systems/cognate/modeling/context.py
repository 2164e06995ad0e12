"""What all layers of one forward pass share: rotary angles, who sees whom, where documents begin, what is padding.

Tokens are counted, not columns: a window of w sees w real tokens of the same document, wherever padding lies between
them. So a row computes the same alone, padded on either side, with a gap behind a shared prompt, or packed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Columns:
    """Tokens in the order of their columns, `(B, S)` each.

    Attributes:
        rank: how many real tokens of the row come before.
        document: number of the document in its row; -1 for padding.
    """

    rank: Tensor
    document: Tensor

    def index_select(self, rows: Tensor) -> Columns:
        return Columns(self.rank.index_select(0, rows), self.document.index_select(0, rows))

    def followed_by(self, new: Columns) -> Columns:
        return Columns(torch.cat([self.rank, new.rank], 1), torch.cat([self.document, new.document], 1))


@dataclass
class Context:
    """One forward pass over `(B, T)` new tokens behind `S` remembered ones.

    Attributes:
        cos, sin: `(B or 1, 1, T, head_dim / 2)` of the rotation.
        mask: `(B or 1, 1, T, P + S + T)` bool, true where a query sees a key; the P persistent tokens come first.
        starts: `(B, T)` bool, a document begins here and the row had another before; None: nowhere.
        padding: `(B, T)` bool; None: there is none.
    """

    cos: Tensor
    sin: Tensor
    mask: Tensor
    starts: Tensor | None
    padding: Tensor | None


def describe(
    real: Tensor | None, position_ids: Tensor | None, past: Columns | None, shape: tuple[int, int], device: torch.device
) -> Columns:
    """Return rank and document of new tokens.

    Args:
        real: `(B, T)` bool, false for padding; None: all are real.
        position_ids: `(B, T)`; a real token at 0 begins a document. None: the row goes on.
        past: of the tokens before; None: there are none.
        shape: B and T.
        device: of the tokens.
    """
    there = torch.ones(shape, dtype=torch.bool, device=device) if real is None else real
    rank = there.long().cumsum(1) - 1
    document = torch.zeros(shape, dtype=torch.long, device=device)
    if position_ids is not None:
        document = ((position_ids == 0) & there).long().cumsum(1)
    if past is not None:
        rank = rank + (past.rank[:, -1:] + 1)
        document = document + past.document.amax(1, keepdim=True).clamp(min=0)
    return Columns(rank, document.masked_fill(~there, -1))


def visible(new: Columns, past: Columns | None, window: int, persistent: int) -> Tensor:
    """Return the mask `(B, 1, T, P + S + T)`: a window of real tokens of the same document, and persistent tokens."""
    keys = new if past is None else past.followed_by(new)
    length, before = new.rank.shape[1], 0 if past is None else past.rank.shape[1]
    # Padding takes no rank of its own (it has that of the token before it), so the column says what is in the future.
    columns = torch.arange(before + length, device=new.rank.device)
    queries = columns[before:, None]
    distance = new.rank[:, :, None] - keys.rank[:, None]  # (B, T, S + T)
    seen = (columns <= queries) & (distance < window) & (new.document[:, :, None] == keys.document[:, None])
    seen = seen | (columns == queries)  # padding sees itself, so that no row of the softmax is empty
    return torch.nn.functional.pad(seen, (persistent, 0), value=True)[:, None]


def rotary(position_ids: Tensor, dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return cosines and sines `(B, 1, T, dim / 2)` of rotary positions (Su et al., arXiv 2104.09864)."""
    exponents = torch.arange(0, dim, 2, device=position_ids.device, dtype=torch.float32) / dim
    angles = position_ids[:, None, :, None].float() * theta**-exponents
    return angles.cos().to(dtype), angles.sin().to(dtype)
