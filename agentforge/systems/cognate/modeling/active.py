"""Tokens that still think, side by side: what is computed once others have stopped.

Everything that works on a token by itself (norms, projections, the MLP, the gate) runs on `(1, N, D)`, the N active
tokens of all rows. Queries meet keys row by row, so attention alone lays them out as `(R, n, ...)`: R rows that have an
active token, n the most that one of them has.

A token that has stopped is *frozen*: what each layer of the core read of it in its last iteration is what the layer
reads of it in all later ones. Its keys, its values and what it writes to the memory are then known without computing
anything, and the tokens that still think see it at every depth. A token that is decoded later finds the same in the
cache, which is why decoding equals the full forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from agentforge.systems.cognate.modeling.context import Context


@dataclass
class Frozen:
    """What one run of a layer in the core last read of every token.

    Attributes:
        normed: `(B, T, D)`, the layer's normalised input.
        keys, values: `(B, T, heads, head_dim)`.
    """

    normed: Tensor
    keys: Tensor
    values: Tensor


class Active:
    """N tokens of a batch `(B, T)`.

    Attributes:
        flat: `(N,)`, where they are in the flattened batch.
        rows: `(R,)`, rows that have one.
        context: of these tokens as one row of N, with the mask of their laid-out queries `(R, 1, n, P + S + T)`.
    """

    def __init__(self, thinking: Tensor, context: Context) -> None:
        batch, length = thinking.shape
        self.flat = thinking.flatten().nonzero().squeeze(1)
        row = self.flat // length
        counts = thinking.sum(1)
        self.rows = counts.nonzero().squeeze(1)
        self.every_row = len(self.rows) == batch
        # The place of a token among the active ones of its row, and of its row among the rows.
        self._place = (thinking.cumsum(1) - 1).flatten()[self.flat]
        self._row = ((counts > 0).cumsum(0) - 1)[row]
        self._most = int(counts.max()) if len(self.flat) else 0
        shape = (batch, 1, length, context.cos.shape[-1])
        cos, sin = (
            angles.expand(shape).reshape(batch * length, -1)[self.flat] for angles in (context.cos, context.sin)
        )
        mask = context.mask.expand(batch, -1, -1, -1)[row, 0, self.flat % length]  # (N, P + S + T)
        # Empty places attend to anything: nobody reads what comes out.
        laid_out = mask.new_ones(len(self.rows), 1, self._most, mask.shape[-1])
        laid_out[self._row, 0, self._place] = mask
        self.context = Context(cos[None, None], sin[None, None], laid_out, context.starts, context.padding)

    def __len__(self) -> int:
        return len(self.flat)

    def take(self, x: Tensor) -> Tensor:
        """Return the active tokens `(1, N, ...)` of `(B, T, ...)`."""
        return x.flatten(0, 1)[self.flat][None]

    def put(self, x: Tensor, new: Tensor) -> Tensor:
        """Return `(B, T, ...)` with the active tokens replaced by `(1, N, ...)`."""
        return x.flatten(0, 1).index_copy(0, self.flat, new[0]).view_as(x)

    def add(self, x: Tensor, new: Tensor) -> Tensor:
        """Return `(B, T, ...)` with `(1, N, ...)` added to the active tokens."""
        return x.flatten(0, 1).index_add(0, self.flat, new[0]).view_as(x)

    def of_rows(self, x: Tensor) -> Tensor:
        """Return the rows `(R, ...)` of `(B, ...)` that have an active token."""
        return x if self.every_row else x.index_select(0, self.rows)

    def lay_out(self, queries: Tensor) -> Tensor:
        """Return queries `(1, H, N, d)` row by row, `(R, H, n, d)`."""
        _, heads, _, dim = queries.shape
        places = queries.new_zeros(len(self.rows), self._most, heads, dim)
        places = places.index_put((self._row, self._place), queries[0].transpose(0, 1))
        return places.transpose(1, 2)

    def collect(self, x: Tensor) -> Tensor:
        """Return `(1, N, D)` of what attention made of laid-out queries, `(R, n, D)`."""
        return x[self._row, self._place][None]
