"""The gated delta rule, with or without Titans' momentum, evaluated for a whole chunk of tokens at once.

A memory is a matrix M that should return the value v when it is asked for the key k. Each token first lets it fade,
then takes one step of gradient descent on what it gets wrong (Behrouz et al., arXiv 2501.00663, a linear memory):

    e_t = v_t - k_t' (a_t M_{t-1})          the error ("surprise") before the write; a_t = exp(log_decay_t)
    S_t = eta_t S_{t-1} + beta_t k_t e_t'   the step; without momentum eta_t = 0
    M_t = a_t M_{t-1} + S_t
    out_t = q_t' M_t

Titans measures the error on M_{t-1}; here it is measured on the memory that has faded, as in Gated DeltaNet (Yang et
al., arXiv 2412.06464). Then a token with a_t = 0 really knows nothing of the tokens before it, and with |k| = 1 and
beta in [0, 1] a step without momentum never overshoots.

**Why it runs in chunks.** The errors look sequential, but the keys, not the memory, decide how a write i reaches a
later token t: by a factor that depends on the gates alone, times k_t . k_i. So with M_0 the memory before the chunk,
and the factors in a lower triangular matrix, all errors of the chunk solve one triangular system

    (I + before * K (beta K)') E = V - (faded K) M_0

and E = U - Y M_0 for a U and a Y that need no M_0. Everything is a batched product over all chunks, except for the
states between chunks, which need one small product each: M_next = gain M + add. No (T, T) matrix is ever made.

**Why nothing overflows.** Factors are exponentials of differences of running sums of log_decay inside a chunk, and
these differences are never positive. Where a document starts, factors are zeros by a mask, set before the exponential:
the difference of two infinite logarithms would be NaN, in the backward pass too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# A smaller logarithm counts as this one: e^-60 is nothing beside 1, and running sums keep their digits.
LEAST_LOG = -60.0


def gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor,
    state: Tensor | None = None,
    *,
    starts: Tensor | None = None,
    chunk_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """Return what each token reads of the memory behind its own write, `(B, H, T, dv)`, and the last state.

    Args:
        q: `(B, H, T, dk)`.
        k: `(B, H, T, dk)`, of length 1 at most.
        v: `(B, H, T, dv)`.
        beta: `(B, H, T)` in [0, 1], how much of the error is corrected; 0: the token writes nothing.
        log_decay: `(B, H, T)`, at most 0; -inf forgets everything.
        state: `(B, H, dk, dv)` behind the tokens before; None: an empty memory.
        starts: `(B, T)` bool, the state is forgotten before this token.
        chunk_size: tokens whose errors are solved for together; it changes the speed, not the result.
    """
    out, _, last = run_delta_rule(Writes(q, k, v, beta, log_decay), state, starts=starts, chunk_size=chunk_size)
    return out, last


@dataclass
class Writes:
    """What tokens ask of the memory and write into it; shapes are those of `gated_delta_rule`.

    Attributes:
        log_momentum: `(B, H, T)`, log of eta; None: no momentum.
        padding: `(B, T)` bool, these tokens neither write nor fade; None: there are none.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    beta: Tensor
    log_decay: Tensor
    log_momentum: Tensor | None = None
    padding: Tensor | None = None

    @property
    def parts(self) -> int:
        """Matrices in the state: M, and with momentum S below it."""
        return 1 if self.log_momentum is None else 2

    def exact(self) -> Writes:
        """Return this in fp32 at least, with gates that leave the memory alone where there is padding."""
        dtype = torch.promote_types(self.q.dtype, torch.float32)
        q, k, v, beta, decay = (x.to(dtype) for x in (self.q, self.k, self.v, self.beta, self.log_decay))
        momentum = None if self.log_momentum is None else self.log_momentum.to(dtype).clamp(min=LEAST_LOG)
        decay = decay.clamp(min=LEAST_LOG)
        if self.padding is not None:
            still = self.padding[:, None]
            beta, decay = beta.masked_fill(still, 0), decay.masked_fill(still, 0)
            momentum = None if momentum is None else momentum.masked_fill(still, 0)
        return Writes(q, k, v, beta, decay, momentum, self.padding)


def run_delta_rule(
    writes: Writes, state: Tensor | None = None, *, starts: Tensor | None = None, chunk_size: int = 64
) -> tuple[Tensor, Tensor, Tensor]:
    """Return outputs and errors `(B, H, T, dv)`, and the state `(B, H, dk, dv)`, with momentum `(B, H, 2 dk, dv)`.

    Args:
        writes: of T tokens.
        state: behind the tokens before; the momentum's matrix stands below the memory. None: empty.
        starts: as for `gated_delta_rule`.
        chunk_size: as for `gated_delta_rule`.
    """
    dtype, shape = writes.q.dtype, (*writes.q.shape[:2], writes.parts * writes.q.shape[-1], writes.v.shape[-1])
    # Autocast would run the products in bf16, and the triangular system does not forgive that.
    with torch.autocast(writes.q.device.type, enabled=False):
        writes = writes.exact()
        state = writes.q.new_zeros(shape) if state is None else state.to(writes.q.dtype)
        if writes.q.shape[2] == 1:
            out, errors, state = _one_token(writes, state, starts)
        else:
            out, errors, state = _in_chunks(writes, state, starts, chunk_size)
    return out.to(dtype), errors, state


def _one_token(writes: Writes, state: Tensor, starts: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The recursion as it is written above: a decoded token has no chunk."""
    if starts is not None:
        state = state.masked_fill(starts[:, :, None, None], 0)
    key = writes.k.transpose(-1, -2)  # (B, H, dk, 1)
    memory, *momentum = state.chunk(writes.parts, -2)
    faded = memory * writes.log_decay.exp()[..., None]
    errors = writes.v - writes.k @ faded
    step = (writes.beta[..., None] * key) * errors
    if writes.log_momentum is None:
        memory = state = faded + step
    else:
        step = torch.addcmul(step, momentum[0], writes.log_momentum.exp()[..., None])
        # padding keeps its momentum for later, and must not apply it
        applied = step if writes.padding is None else step.masked_fill(writes.padding[:, :, None, None], 0)
        memory = faded + applied
        state = torch.cat([memory, step], -2)
    return writes.q @ memory, errors, state


@dataclass
class _Factors:
    """How writes and states reach tokens of the same chunk, by the gates alone. C tokens, P parts of the state.

    Attributes:
        read: `(..., C, C)` of write i in M_t.
        before: `(..., C, C)` of write i in the faded memory that t writes to.
        read_state, before_state: `(..., C, P)` of the parts of the state before the chunk in the same two.
        kept: `(..., P, C)` of write i in the parts of the state behind the chunk.
        kept_state: `(..., P, P)` of the state before in the state behind.
    """

    read: Tensor
    before: Tensor
    read_state: Tensor
    before_state: Tensor
    kept: Tensor
    kept_state: Tensor


def _fading(log: Tensor, document: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the factor from i to t, `(..., C, C)`, and from before the chunk to t, `(..., C)`.

    Args:
        log: `(..., C)` of the factor from each token's predecessor.
        document: `(..., C)`, how many documents have started in the chunk; None: none.
    """
    total = log.cumsum(-1)
    between = total[..., :, None] - total[..., None, :]
    if document is None:
        unreached = torch.ones(between.shape[-2:], dtype=torch.bool, device=log.device).triu(1)
        return between.masked_fill(unreached, -torch.inf).exp(), total.exp()
    unreached = (document[..., :, None] != document[..., None, :]) | ~torch.ones_like(between, dtype=torch.bool).tril()
    return between.masked_fill(unreached, -torch.inf).exp(), total.masked_fill(document > 0, -torch.inf).exp()


def _factors(
    log_decay: Tensor, log_momentum: Tensor | None, document: Tensor | None, padding: Tensor | None
) -> _Factors:
    """Return the factors of chunks from their gates, `(..., C)` each."""
    fading, since = _fading(log_decay, document)
    if log_momentum is None:
        column = since[..., None]
        return _Factors(fading, fading, column, column, fading[..., -1:, :], column[..., -1:, :])
    # With momentum a write enters M again at every later token: first it fades as momentum, from i to some j, and from
    # then on as memory, from j to t. The sum over all j is a matrix product.
    slowing, slowing_since = _fading(log_momentum, document)
    entering = fading if padding is None else fading.masked_fill(padding[..., None, :], 0)
    again, again_since = entering @ slowing, (entering @ slowing_since[..., None])[..., 0]
    # M_t without what enters at t itself; padding lets nothing enter
    now, now_since = slowing, slowing_since
    if padding is not None:
        now, now_since = now.masked_fill(padding[..., :, None], 0), now_since.masked_fill(padding, 0)
    zero = torch.zeros_like(since[..., -1])
    last = [torch.stack([since[..., -1], again_since[..., -1]], -1), torch.stack([zero, slowing_since[..., -1]], -1)]
    return _Factors(
        read=again,
        before=again - now,
        read_state=torch.stack([since, again_since], -1),
        before_state=torch.stack([since, again_since - now_since], -1),
        kept=torch.stack([again[..., -1, :], slowing[..., -1, :]], -2),
        kept_state=torch.stack(last, -2),
    )


def _in_chunks(writes: Writes, state: Tensor, starts: Tensor | None, chunk_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Evaluate all chunks at once; only `_Scan` goes from one to the next."""
    length = writes.q.shape[2]
    chunks = -(-length // chunk_size)
    size = -(-length // chunks)  # equal chunks: the last has at most `chunks - 1` tokens that are not there

    missing = chunks * size - length

    def cut(x: Tensor, dim: int = 2, filler: float = 0) -> Tensor:
        shape = (*x.shape[:dim], missing, *x.shape[dim + 1 :])
        x = torch.cat([x, x.new_full(shape, filler)], dim) if missing else x
        return x.unflatten(dim, (chunks, size))

    q, k, v, beta = (cut(x) for x in (writes.q, writes.k, writes.v, writes.beta))
    document = None if starts is None else cut(starts, 1)[:, None].cumsum(-1)
    padding, momentum = writes.padding, writes.log_momentum
    if momentum is not None:
        # tokens that are not there must not apply the momentum; a zero gate does not say so
        momentum = cut(momentum)
        if missing and padding is None:
            padding = torch.zeros(len(q), length, dtype=torch.bool, device=q.device)
        padding = None if padding is None else cut(padding, 1, True)[:, None]
    f = _factors(cut(writes.log_decay), momentum, document, padding)

    written = beta[..., None] * k
    wanted = torch.cat([v, _weigh(f.before_state, k)], -1)
    system = f.before * (k @ written.transpose(-1, -2))
    solved = _Solve.apply(system, wanted)
    fresh, known = solved.split([v.shape[-1], wanted.shape[-1] - v.shape[-1]], -1)
    keeping = _weigh(f.kept.transpose(-1, -2), written).transpose(-1, -2)  # (..., P dk, C)
    identity = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    gain = torch.kron(f.kept_state, identity) - keeping @ known
    states, last = _Scan.apply(gain, keeping @ fresh, state)
    errors = fresh - known @ states
    out = _weigh(f.read_state, q) @ states + (f.read * (q @ written.transpose(-1, -2))) @ errors
    return out.flatten(2, 3)[:, :, :length], errors.flatten(2, 3)[:, :, :length], last


def _weigh(factors: Tensor, x: Tensor) -> Tensor:
    """Return `(..., C, P d)`: the rows of `x` `(..., C, d)` times each of the P columns of factors `(..., C, P)`."""
    if factors.shape[-1] == 1:
        return factors * x
    return (factors[..., None] * x[..., None, :]).flatten(-2)


class _Solve(torch.autograd.Function):
    """Solve ``(I + tril(system, -1)) x = wanted`` with the inverse, which the backward pass needs again.

    On a CPU, inverting by blocks and multiplying takes about half the time of `torch.linalg.solve_triangular`.
    """

    @staticmethod
    def forward(ctx: Any, system: Tensor, wanted: Tensor) -> Tensor:
        inverse = unit_lower_inverse(system)
        solved = inverse @ wanted
        ctx.save_for_backward(inverse, solved)
        return solved

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_solved: Tensor) -> tuple[Tensor, Tensor]:
        inverse, solved = ctx.saved_tensors
        of_wanted = inverse.transpose(-1, -2) @ of_solved
        return (of_wanted @ solved.transpose(-1, -2)).tril_(-1).neg_(), of_wanted


def unit_lower_inverse(x: Tensor) -> Tensor:
    """Return the inverse of ``I + tril(x, -1)`` for matrices `(..., C, C)`, block by block.

    The series ``(I - L)(I + L^2)(I + L^4)...`` has no solve at all, but where keys are alike the powers of L are as
    large as binomials of C, and nothing of the result is left.
    """
    inverse = torch.zeros_like(x)
    _invert(x, inverse)
    return inverse


def _invert(x: Tensor, out: Tensor) -> None:
    size = x.shape[-1]
    if size <= 16:
        identity = torch.eye(size, dtype=x.dtype, device=x.device).expand_as(x)
        out.copy_(torch.linalg.solve_triangular(x, identity, upper=False, unitriangular=True))
        return
    # [A 0; B D]^-1 = [A^-1 0; -D^-1 B A^-1 D^-1]
    half = size // 2
    first, second = out[..., :half, :half], out[..., half:, half:]
    _invert(x[..., :half, :half], first)
    _invert(x[..., half:, half:], second)
    out[..., half:, :half] = -(second @ (x[..., half:, :half] @ first))


class _Scan(torch.autograd.Function):
    """The states between chunks, ``next = gain @ state + add``; all gradients but the state's are one product."""

    @staticmethod
    def forward(ctx: Any, gain: Tensor, add: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the state before each chunk `(B, H, N, R, dv)` and behind the last `(B, H, R, dv)`."""
        states = torch.empty_like(add)
        for n in range(gain.shape[2]):
            states[:, :, n] = state
            state = add[:, :, n] + gain[:, :, n] @ state
        ctx.save_for_backward(gain, states)
        return states, state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_states: Tensor, of_last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gain, states = ctx.saved_tensors
        of_next = torch.empty_like(states)
        for n in reversed(range(gain.shape[2])):
            of_next[:, :, n] = of_last
            of_last = of_states[:, :, n] + gain[:, :, n].transpose(-1, -2) @ of_last
        return of_next @ states.transpose(-1, -2), of_next, of_last
