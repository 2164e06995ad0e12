"""Stand-in until h-cg-memory."""

import torch


def gated_delta_rule(q, k, v, beta, log_decay, state=None, *, starts=None, chunk_size=64):
    B, H, T, dk = q.shape
    dv = v.shape[-1]
    S = torch.zeros(B, H, dk, dv, dtype=torch.float32) if state is None else state
    out = []
    for a in range(0, T, chunk_size):
        qc, kc, vc, bc, gc = (x[:, :, a : a + chunk_size].float() for x in (q, k, v, beta, log_decay))
        g = gc.cumsum(-1)
        n = qc.shape[2]
        D = torch.exp((g[..., :, None] - g[..., None, :]).tril()).tril()
        A = torch.eye(n) + (bc[..., None] * D * (kc @ kc.transpose(-1, -2))).tril(-1)
        rhs = bc[..., None] * (vc - g.exp()[..., None] * (kc @ S))
        U = torch.linalg.solve_triangular(A, rhs, upper=False, unitriangular=True)
        out.append(g.exp()[..., None] * (qc @ S) + (D * (qc @ kc.transpose(-1, -2))) @ U)
        S = g[..., -1:, None].exp() * S + (torch.exp(g[..., -1:] - g)[..., None] * kc).transpose(-1, -2) @ U
    return torch.cat(out, 2) if out else v.float(), S
