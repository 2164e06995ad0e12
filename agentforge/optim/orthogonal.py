"""The nearest orthogonal matrix of many matrices at once, by polynomials: what Muon makes of a momentum.

Every singular value of M = U S V' is to become 1. An odd polynomial of M acts on the singular values alone, since
(M M')^k M = U S^(2k+1) V', so no decomposition is needed: only products, which every machine is good at. The classic is
Jordan's (https://kellerjordan.github.io/posts/muon/): divide by the Frobenius norm, apply one quintic five times.

Three things here make that cheaper; `python -m benchmarks.optimizers` measures them.

1. A better norm. The Frobenius norm is up to sqrt(rank) times the largest singular value, and the first iterations only
   bring the values back up. The first iteration computes G = M M' and G^2 anyway, and the Frobenius norm of G^2 is at
   most rank^(1/8) times too large, a norm for nothing (the Schatten-8 norm of M).
2. Better polynomials. Composed ones that are each optimal for the interval that the one before leaves (Amsel et al.,
   "The Polar Express", arXiv 2505.16932): four reach as far as five times the same one.
3. Smaller products. For a matrix three times as wide as high everything happens in G, which is small: with all factors
   functions of the same G they commute, and M is multiplied once, by their product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Quintic = tuple[float, float, float]

# Each is the odd quintic nearest to 1 on an interval: the first on [1/468, 1], the next on what the one before leaves.
# Together they bring that interval to [0.7, 1.3]: four reach as far down as Jordan's five. A test computes them again.
POLYNOMIALS: tuple[Quintic, ...] = (
    (8.4209, -24.9129, 18.4740),
    (4.1022, -3.0525, 0.5742),
    (3.6841, -2.7562, 0.5404),
    (2.7330, -2.0355, 0.4591),
)
# Beyond this width the products are cheaper inside G. With four quintics the ways cost 16 r + 8 and 4 r + 26 cubes of
# the height, where r is how many times as wide as high the matrix is.
WIDE = 1.5
# The bound on the largest singular value holds up to rounding, and beyond 1 the first polynomial rises steeply.
MARGIN = 1.001


def orthogonalized(stack: Tensor, polynomials: Sequence[Quintic] = POLYNOMIALS) -> Tensor:
    """Return matrices with the singular vectors of the given ones and singular values near 1.

    Args:
        stack: `(N, A, B)`, matrices of one shape. fp32 on the CPU; on CUDA bf16 is enough and fast.
        polynomials: coefficients of x, x^3 and x^5, applied one after the other.

    Returns:
        `(N, A, B)`. Singular values below about 1/468 of the norm come out smaller than 0.7, in proportion; zeros stay.
    """
    tall = stack.shape[-2] > stack.shape[-1]
    wide = stack.mT if tall else stack
    # Fourth powers of a gradient's numbers would leave fp32's range: first to a Frobenius norm of 1. Zeros stay zeros.
    wide = wide / torch.linalg.matrix_norm(wide, keepdim=True).clamp(min=torch.finfo(stack.dtype).tiny)
    gram = torch.bmm(wide, wide.mT)
    square = torch.bmm(gram, gram)
    # ||G^2||_F^(1/4) >= the largest singular value of M. Dividing M by s divides G by s^2 and G^2 by s^4.
    norm = torch.linalg.matrix_norm(square, keepdim=True).pow(0.25) * MARGIN
    norm = norm.clamp(min=torch.finfo(stack.dtype).tiny ** 0.2)
    wide, gram, square = wide / norm, gram / norm**2, square / norm**4
    run = _inside_gram if wide.shape[-1] > WIDE * wide.shape[-2] and stack.dtype == torch.float32 else _directly
    found = run(wide, gram, square, polynomials)
    return found.mT if tall else found


def _directly(wide: Tensor, gram: Tensor, square: Tensor, polynomials: Sequence[Quintic]) -> Tensor:
    """Apply each polynomial to the matrices themselves."""
    for index, (a, b, c) in enumerate(polynomials):
        if index:
            gram = torch.bmm(wide, wide.mT)
            square = torch.bmm(gram, gram)
        # a X + (b G + c G^2) X
        wide = torch.baddbmm(wide, gram.mul_(b).add_(square, alpha=c), wide, beta=a)
    return wide


def _inside_gram(wide: Tensor, gram: Tensor, square: Tensor, polynomials: Sequence[Quintic]) -> Tensor:
    """Multiply the polynomials' factors p(G) first; G itself becomes p(G) G p(G).

    In fp32 only: G has the squares of the singular values, and half precision has no digits left for small ones.
    """
    product: Tensor | None = None
    for index, (a, b, c) in enumerate(polynomials):
        factor = (gram * b).add_(square, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        product = factor if product is None else torch.bmm(factor, product)
        if index + 1 < len(polynomials):
            gram = torch.bmm(torch.bmm(gram, factor), factor)
            square = torch.bmm(gram, gram)
    assert product is not None
    return torch.bmm(product, wide)


def matched_scale(rows: int, columns: int) -> float:
    """Return the factor that gives an orthogonal matrix the root mean square of an AdamW update, about 0.2.

    An orthogonal A x B matrix has a root mean square of 1 / sqrt(max(A, B)) (Liu et al., "Muon is Scalable for LLM
    Training", arXiv 2502.16982). So a learning rate means the same to both kinds of parameters.
    """
    return 0.2 * math.sqrt(max(rows, columns))
