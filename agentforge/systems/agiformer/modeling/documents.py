"""The batch as the model reads it: one document in each row, flush left, without padding before it.

Patches are counted from the first byte of a document. A row that begins with padding, or a packed row that holds
several documents, would put their borders somewhere else and so change what is computed. Both are taken apart here and
put together again behind the model, which therefore needs to know nothing of either.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Documents:
    """Where the bytes of each document lie in the batch.

    Attributes:
        lengths: `(R,)` bytes of each document.
        places: `(R, L)` numbers in the flattened batch `(B * T)`; None: the batch is read as it is. Behind a document's
            end they repeat a place that is not read.
        shape: `(B, T)` of the batch.
        packed: a row holds more than one document, so no cache can continue it.
    """

    lengths: Tensor
    places: Tensor | None
    shape: tuple[int, int]
    packed: bool = False

    def take(self, values: Tensor) -> Tensor:
        """Return `(B, T, ...)` as `(R, L, ...)`."""
        return values if self.places is None else values.flatten(0, 1)[self.places]

    def put_back(self, values: Tensor) -> Tensor:
        """Return `(R, L, ...)` as `(B, T, ...)`, zero where the batch has padding."""
        if self.places is None:
            return values
        inside = torch.arange(values.shape[1], device=values.device) < self.lengths[:, None]
        flat = values.new_zeros(self.shape[0] * self.shape[1], *values.shape[2:])
        flat = flat.index_copy(0, self.places[inside], values[inside])
        return flat.view(*self.shape, *values.shape[2:])


def documents_of(tokens: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None) -> Documents:
    """Return the documents of a batch.

    Args:
        tokens: `(B, T)`.
        attention_mask: `(B, S)` with S >= T, 0 at padding; the last T columns belong to the tokens.
        position_ids: `(B, T)`; where they fall within a row, a new document begins.
    """
    batch, length = tokens.shape
    whole = Documents(torch.full((batch,), length, device=tokens.device), None, (batch, length))
    real = None if attention_mask is None else attention_mask[:, -length:].bool()
    starts = _restarts(position_ids, real)
    if starts is None and (real is None or bool(real.all())):
        return whole
    real = torch.ones_like(tokens, dtype=torch.bool) if real is None else real
    number = torch.arange(batch, device=tokens.device)[:, None].expand(batch, length)
    if starts is not None:
        # every row begins a document, and each restart one more
        starts = starts.clone()
        starts[:, 0] = True
        number = starts.flatten().cumsum(0).view(batch, length) - 1
    return _gathered(number, real, batch if starts is None else int(number.max()) + 1)


def _restarts(position_ids: Tensor | None, real: Tensor | None) -> Tensor | None:
    if position_ids is None or position_ids.shape[1] < 2:
        return None
    falls = torch.zeros_like(position_ids, dtype=torch.bool)
    falls[:, 1:] = position_ids[:, 1:] <= position_ids[:, :-1]
    if real is not None:
        # positions of padding mean nothing, nor does the step from it to the first byte
        falls[:, 1:] &= real[:, 1:] & real[:, :-1]
    return falls if bool(falls.any()) else None


def _gathered(number: Tensor, real: Tensor, count: int) -> Documents:
    batch, length = number.shape
    flat, inside = number.flatten(), real.flatten()
    lengths = torch.zeros(count, dtype=torch.long, device=flat.device).index_add_(
        0, flat[inside], inside[inside].long()
    )
    places = torch.zeros(count, max(int(lengths.max()), 1), dtype=torch.long, device=flat.device)
    found = inside.nonzero()[:, 0]  # in order, so documents come one after the other
    first = lengths.cumsum(0) - lengths
    column = torch.arange(len(found), device=flat.device) - first[flat[found]]
    places[flat[found], column] = found
    return Documents(lengths, places, (batch, length), packed=count > batch)
