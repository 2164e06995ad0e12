"""Stand-in until h-cg-memory."""
import torch
def gated_delta_rule(q, k, v, beta, log_decay, state=None, *, starts=None, chunk_size=64):
    B,H,T,dk=q.shape; dv=v.shape[-1]
    S = torch.zeros(B,H,dk,dv,dtype=torch.float32) if state is None else state
    out=[]
    for t in range(T):
        S = S*log_decay[:,:,t,None,None].exp()
        u = beta[:,:,t,None]*(v[:,:,t].float()-torch.einsum('bhkv,bhk->bhv',S,k[:,:,t]))
        S = S+torch.einsum('bhk,bhv->bhkv',k[:,:,t],u)
        out.append(torch.einsum('bhkv,bhk->bhv',S,q[:,:,t]))
    return torch.stack(out,2) if out else v.float(), S
