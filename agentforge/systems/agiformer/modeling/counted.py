"""Counts of what followed each context in the training text, as log-probabilities that the layers weigh.

A neural model of a small text learns its rare n-grams by heart, trusts them, and is wrong about them elsewhere. Counts
know how often a context was seen, and say so. Each size of context gives a distribution, smoothed by the next shorter
one (absolute discounting; Ney, Essen and Kneser 1994):

    p_n(b) = max(c_n(b) - d_n, 0) / c_n + d_n * (bytes that followed) / c_n * p_{n-1}(b),    p_0 uniform

and the logits become ``lm_head(h) + sum_n w_n log p_n``, with weights w from the hidden state and from how much was
counted. It is the logistic mixing of data compressors (Mahoney, PAQ), with the model as its mixer.

In training a row must not be predicted by counts that it is itself part of: each context would seem to be sure of what
follows, which it is not outside the training text. So the text is counted in F pieces ("folds"), and a row of one piece
sees the counts of the others. A row is known by its first tokens; text that was never counted sees all counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from agentforge.systems.agiformer.modeling.configuration import AgiformerConfig
from agentforge.systems.agiformer.modeling.ngrams import ngram_keys

FIRST = 64
"""Tokens by which a row is known again."""
MIXER = 64
"""Channels of the layer that weighs."""
Contexts = tuple[Tensor, Tensor]
"""Keys of the contexts that end at each token `(B, T, S)`, and of the row that it is in `(B, T)`."""
BATCH = 256
"""Rows that are read at once."""


def row_keys(tokens: Tensor, lengths: Tensor) -> Tensor:
    """Return the keys `(R,)` of rows `(R, T)`, of which the first ``lengths`` `(R,)` tokens count."""
    first = tokens[:, :FIRST]
    first = torch.where(torch.arange(first.shape[1], device=tokens.device) < lengths[:, None], first, -1)
    padded = nn.functional.pad(first, (0, FIRST - first.shape[1]), value=-1)
    return ngram_keys(padded, [FIRST])[:, 0, 0]


class CountedNgrams(nn.Module):
    """Counts, and the small network that weighs them.

    The counts are buffers, saved with the weights: C contexts and E continuations over all sizes, M rows.
    """

    contexts: Tensor  # (C,) keys, ascending
    starts: Tensor  # (C + 1,) first continuation of each context
    tokens: Tensor  # (E,) what followed
    counts: Tensor  # (E, F) how often, in each fold
    discounts: Tensor  # (S,)
    rows: Tensor  # (M,) keys of the counted rows, ascending
    folds: Tensor  # (M,) of each, a bit a fold

    def __init__(self, config: AgiformerConfig) -> None:
        super().__init__()
        self.config, self.sizes = config, list(config.counted_sizes)
        features = config.hidden_size + 2 * len(self.sizes)
        self.weigh = nn.Sequential(nn.Linear(features, MIXER), nn.GELU(), nn.Linear(MIXER, len(self.sizes)))
        contexts, continuations, rows = config.counted
        self._hold(
            contexts=torch.zeros(contexts, dtype=torch.long),
            starts=torch.zeros(contexts + 1, dtype=torch.long),
            tokens=torch.zeros(continuations, dtype=torch.int16),
            counts=torch.zeros(continuations, config.counted_folds, dtype=torch.int32),
            discounts=torch.zeros(len(self.sizes)),
            rows=torch.zeros(rows, dtype=torch.long),
            folds=torch.zeros(rows, dtype=torch.long),
        )

    def _hold(self, **buffers: Tensor) -> None:
        for name, values in buffers.items():
            self.register_buffer(name, values.to(next(self.weigh.parameters()).device))

    @torch.no_grad()
    def count(self, rows: Sequence[Sequence[int]]) -> None:
        """Count the rows of the training text, in their order: neighbours share a fold, for they resemble each other.

        The config then says how much there is, so that the saved model can be opened.
        """
        folds, vocabulary = self.config.counted_folds, self.config.vocab_size
        lengths = torch.tensor([len(row) for row in rows])
        fold_of_row = (lengths.cumsum(0) - lengths) * folds // int(lengths.sum())
        read = [self._read(rows[first : first + BATCH]) for first in range(0, len(rows), BATCH)]
        keys, following, known = (torch.cat(parts) for parts in zip(*read, strict=True))
        fold = fold_of_row.repeat_interleave((lengths - 1).clamp(min=0))
        contexts, context = keys.unique(return_inverse=True)
        pairs, pair = (context * vocabulary + following[:, None]).unique(return_inverse=True)
        counts = torch.bincount((pair * folds + fold[:, None]).flatten(), minlength=len(pairs) * folds)
        size = torch.zeros(len(contexts), dtype=torch.long)
        size[context] = torch.arange(len(self.sizes)).expand_as(keys)
        names, held = _folds_of_rows(known, fold_of_row, folds)
        self._hold(
            contexts=contexts,
            starts=torch.searchsorted(pairs // vocabulary, torch.arange(len(contexts) + 1)),
            tokens=(pairs % vocabulary).short(),
            counts=counts.view(-1, folds).int(),
            discounts=_discounts(counts.view(-1, folds).sum(1), size[pairs // vocabulary], len(self.sizes)),
            rows=names,
            folds=held,
        )
        self.config.counted = [len(contexts), len(pairs), len(names)]

    def _read(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Return contexts `(L, S)`, what followed each `(L,)`, and the rows' keys `(R,)`."""
        lengths = torch.tensor([len(row) for row in rows])
        tokens = nn.utils.rnn.pad_sequence([torch.as_tensor(row) for row in rows], batch_first=True)
        before = tokens.new_full((len(rows), self.sizes[-1] - 1), self.config.vocab_size)
        keys = ngram_keys(torch.cat([before, tokens], dim=1), self.sizes)
        followed = torch.arange(tokens.shape[1] - 1) < lengths[:, None] - 1
        return keys[:, :-1][followed], tokens[:, 1:][followed], row_keys(tokens, lengths)

    def left_out(self, keys: Tensor) -> Tensor:
        """Return of rows, by their keys `(R,)`, the folds they are part of, a bit each; 0: the row was not counted."""
        if not len(self.rows):
            return torch.zeros_like(keys)
        place = torch.searchsorted(self.rows, keys).clamp(max=len(self.rows) - 1)
        return torch.where(self.rows[place] == keys, self.folds[place], 0)

    def forward(self, hidden: Tensor, keys: Tensor, left_out: Tensor) -> Tensor:
        """Return what is added to the logits, `(N, V)`.

        Args:
            hidden: `(N, D)`.
            keys: `(N, S)` of the contexts that end at a token.
            left_out: `(N,)` folds that may not be read, a bit each.
        """
        log_p, evidence = self.distributions(keys, left_out)
        weights = self.weigh(torch.cat([hidden, evidence.to(hidden.dtype)], dim=-1)).float()
        # As it begins, the longest context's distribution is believed as it is.
        weights = weights + torch.eye(len(self.sizes), device=weights.device)[-1]
        return torch.einsum("ns,nsv->nv", weights, log_p)

    @torch.no_grad()
    def distributions(self, keys: Tensor, left_out: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities `(N, S, V)`, and log(1 + number) of the tokens and kinds they rest on `(N, 2S)`."""
        shape = (*keys.shape, self.config.vocab_size)
        places, counts = self._found(keys.flatten(), left_out)
        total = counts.new_zeros(keys.numel()).index_add_(0, places // shape[2], counts).view_as(keys)
        kinds = counts.new_zeros(keys.numel()).index_add_(0, places // shape[2], (counts > 0).float()).view_as(keys)
        discount = self.discounts.float()[places // shape[2] % shape[1]]
        counts = (counts - discount).clamp(min=0) / total.flatten()[places // shape[2]].clamp(min=1)
        p = counts.new_zeros(keys.numel() * shape[2]).index_add_(0, places, counts).view(shape)
        passed = torch.where(total > 0, self.discounts.float() * kinds / total.clamp(min=1), 1.0)  # to the shorter one
        shorter: Tensor | float = 1 / shape[2]
        for size in range(shape[1]):
            p[:, size] += passed[:, size, None] * shorter
            shorter = p[:, size]
        return p.log_(), torch.cat([total, kinds], dim=1).log1p()

    def _found(self, keys: Tensor, left_out: Tensor) -> tuple[Tensor, Tensor]:
        """Return all continuations of the contexts: their places in `(N * S * V)`, and how often each came."""
        if not len(self.contexts):
            return keys.new_zeros(0), torch.zeros(0, device=keys.device)
        context = torch.searchsorted(self.contexts, keys).clamp(max=len(self.contexts) - 1)
        known = self.contexts[context] == keys
        first = self.starts[context]
        many = torch.where(known, self.starts[context + 1] - first, 0)
        asker = torch.arange(len(keys), device=keys.device).repeat_interleave(many)
        entry = torch.arange(len(asker), device=keys.device) + (first - many.cumsum(0) + many).repeat_interleave(many)
        counts = self.counts[entry].float()
        if bool(left_out.any()):
            fold = torch.arange(counts.shape[1], device=keys.device)
            read = ((left_out[:, None] >> fold) & 1) == 0  # (N, F)
            counts = counts * read[asker // len(self.sizes)]
        return asker * self.config.vocab_size + self.tokens[entry], counts.sum(1)


def _folds_of_rows(keys: Tensor, folds: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the different keys, and the folds in which each occurs, a bit a fold: a row may come twice."""
    names, number = keys.unique(return_inverse=True)
    occurs = (number * count + folds).unique()
    bits = torch.ones_like(occurs) << (occurs % count)
    return names, torch.zeros_like(names).index_add_(0, occurs // count, bits)


def _discounts(counts: Tensor, sizes: Tensor, count: int) -> Tensor:
    """Return `(S,)` what is taken of each count: n1 / (n1 + 2 n2), of what came once and twice (Ney et al. 1994)."""
    once, twice = (torch.bincount(sizes[counts == times], minlength=count).float() for times in (1, 2))
    return torch.where(once + twice > 0, once / (once + 2 * twice).clamp(min=1), 0.5).clamp(0.05, 0.95)
