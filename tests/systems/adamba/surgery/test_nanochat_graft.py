"""A nanochat becomes an Adamba that computes what nanochat computes; a nanochat with more in it is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import NanoChatConfig, NanoChatForCausalLM

from agentforge.errors import CheckRefused, UserError
from agentforge.systems.adamba.modeling.modeling import AdambaForCausalLM
from agentforge.systems.adamba.modeling.shape import AdambaShape
from agentforge.systems.adamba.surgery.expand import expand
from agentforge.systems.adamba.surgery.graft import MambaSizes
from agentforge.systems.adamba.surgery.nanochat_graft import graft_nanochat, is_nanochat, reference
from agentforge.systems.adamba.surgery.proof import load, logits_of, random_rows
from agentforge.systems.adamba.surgery.slicing import slice_checkpoint
from tests.systems.adamba.checkpoints import VOCABULARY, llama, loud, save

SIZES = MambaSizes(d_state=4, chunk=16)
ROWS = random_rows(VOCABULARY, seed=8)


def grafted(base: Path, target: Path) -> Any:
    target.mkdir()
    graft_nanochat(base, target, SIZES, 3)
    return load(target)


def hub(directory: Path, **fields: Any) -> Path:
    """Write a nanochat in transformers' form."""
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2}
    config = NanoChatConfig(**(sizes | {"num_attention_heads": 4, "num_key_value_heads": 2} | fields))
    return save(loud(NanoChatForCausalLM(config)), directory)


RAW = {"sequence_len": 256, "vocab_size": VOCABULARY, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 64}


def raw(directory: Path, **changes: Any) -> tuple[Path, dict[str, Tensor]]:
    """Write a checkpoint as nanochat's own trainer does, its vocabulary padded to a multiple of 64."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*size: int) -> Tensor:
        return torch.randn(size, generator=generator) * 0.1

    state = {"transformer.wte.weight": drawn(128, 64), "lm_head.weight": drawn(128, 64)}
    for layer in range(2):
        name = f"transformer.h.{layer}."
        state |= {f"{name}attn.{which}.weight": drawn(64, 64) for which in ("c_q", "c_proj")}
        state |= {f"{name}attn.{which}.weight": drawn(32, 64) for which in ("c_k", "c_v")}
        state |= {f"{name}mlp.c_fc.weight": drawn(256, 64), f"{name}mlp.c_proj.weight": drawn(64, 256)}
    state["transformer.wte.weight"] = state["transformer.wte.weight"].bfloat16()
    directory.mkdir()
    write(directory, state, **changes)
    return directory, state


def write(directory: Path, state: dict[str, Tensor], step: int = 700, **changes: Any) -> None:
    torch.save(state, directory / f"model_{step:06d}.pt")
    meta = {"step": step, "model_config": RAW | changes}
    (directory / f"meta_{step:06d}.json").write_text(json.dumps(meta))


def nanochat(state: dict[str, Tensor], ids: Tensor) -> Tensor:
    """What nanochat's gpt.py computes, written down from its description: `(T,)` token ids to `(T, V)` logits."""

    def norm(x: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.shape[-1],))

    angles = torch.outer(torch.arange(len(ids)), 10000.0 ** -(torch.arange(0, 16, 2) / 16))
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]

    def rotated(x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos + second * sin, second * cos - first * sin], dim=-1)

    x = norm(functional.embedding(ids, state["transformer.wte.weight"].float()))
    for layer in range(2):
        weight = {name.split(f"h.{layer}.")[-1]: tensor for name, tensor in state.items()}
        h = norm(x)
        q, k, v = ((h @ weight[f"attn.c_{which}.weight"].T).unflatten(-1, (-1, 16)) for which in "qkv")
        q, k = norm(rotated(q)), norm(rotated(k))
        k, v = k.repeat_interleave(2, dim=1), v.repeat_interleave(2, dim=1)
        heads = [part.transpose(0, 1) for part in (q, k, v)]
        y = functional.scaled_dot_product_attention(*heads, is_causal=True).transpose(0, 1).flatten(1)
        x = x + y @ weight["attn.c_proj.weight"].T
        x = x + functional.relu(norm(x) @ weight["mlp.c_fc.weight"].T).square() @ weight["mlp.c_proj.weight"].T
    return 15 * torch.tanh((norm(x) @ state["lm_head.weight"].T)[:, :VOCABULARY] / 15)


def difference(one: list[Tensor], other: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


def test_from_the_hub(tmp_path: Path) -> None:
    base = hub(tmp_path / "base")
    model = grafted(base, tmp_path / "graft")
    assert type(model) is AdambaForCausalLM
    assert difference(logits_of(load(base), ROWS), logits_of(model, ROWS)) < 1e-5
    assert difference(logits_of(reference(base), ROWS), logits_of(load(base), ROWS)) == 0


def test_from_karpathys_directory(tmp_path: Path) -> None:
    """Also through torch.compile's names, and the newest step if there are more."""
    base, state = raw(tmp_path / "base")
    older = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    write(base, older, step=650)
    expected = [nanochat(state, torch.tensor(row)) for row in ROWS]
    model = grafted(base, tmp_path / "graft")
    assert model.config.vocab_size == VOCABULARY
    assert model.config.intermediate_size == 256
    assert difference(expected, logits_of(model, ROWS)) < 1e-5
    assert difference(expected, logits_of(reference(base), ROWS)) < 1e-5
    write(base, {f"_orig_mod.{name}": tensor for name, tensor in state.items()})
    assert difference(expected, logits_of(grafted(base, tmp_path / "compiled"), ROWS)) < 1e-5


def test_it_grows_and_is_cut_out_again(tmp_path: Path) -> None:
    """Without norm weights, with an embedding norm, squared ReLU and a soft cap, compensation is another one."""
    model = loud(grafted(hub(tmp_path / "base"), tmp_path / "graft"))
    old, new, back = save(model, tmp_path / "old"), tmp_path / "new", tmp_path / "back"
    new.mkdir()
    back.mkdir()
    shape = AdambaShape.of(model.config)
    larger = replace(shape, hidden_size=80, intermediate_size=300, mamba_n_heads=5, num_hidden_layers=3)
    expand(old, new, larger, 0)
    slice_checkpoint(new, back, shape)
    assert difference(logits_of(model, ROWS), logits_of(load(new), ROWS)) < 1e-5
    assert difference(logits_of(model, ROWS), logits_of(load(back), ROWS)) == 0


@pytest.mark.parametrize(
    "name",
    ["value_embeds.1.weight", "resid_lambdas", "x0_lambdas", "smear_gate.weight", "backout_lambda"],
)
def test_later_nanochats_are_refused_by_name(tmp_path: Path, name: str) -> None:
    base, state = raw(tmp_path / "base")
    write(base, state | {name: torch.zeros(2)})
    with pytest.raises(CheckRefused, match=f"has unknown {name}"):
        grafted(base, tmp_path / "graft")


def test_other_bad_directories_are_refused(tmp_path: Path) -> None:
    base, state = raw(tmp_path / "base")

    def refused(says: str, kind: type[UserError] = CheckRefused) -> None:
        with pytest.raises(kind, match=says):
            grafted(base, tmp_path / str(len(list(tmp_path.iterdir()))))

    write(base, {name: tensor for name, tensor in state.items() if "h.1.mlp.c_fc" not in name})
    refused("lacks transformer.h.1.mlp.c_fc.weight")
    write(base, state, window_pattern="SSSL")
    refused("window_pattern is SSSL")
    write(base, state, n_experts=4)
    refused("n_experts is not supported")
    write(base, state, vocab_size=200)
    refused(r"is \(128, 64\), but its config asks for \(200, 64\)")
    (base / "meta_000700.json").unlink()
    refused("not meta_000700.json", UserError)
    (base / "model_000700.pt").unlink()
    refused("no model_XXXXXX.pt", UserError)


def test_a_pickle_that_would_run_code_is_not_run(tmp_path: Path) -> None:
    base, state = raw(tmp_path / "base")
    write(base, state | {"evil": Runs(tmp_path / "ran")})  # type: ignore[dict-item]
    with pytest.raises(CheckRefused, match="holds more than tensors"):
        grafted(base, tmp_path / "graft")
    assert not (tmp_path / "ran").exists()


class Runs:
    """Unpickling it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def test_what_is_a_nanochat(tmp_path: Path) -> None:
    assert is_nanochat(hub(tmp_path / "hub"))
    assert is_nanochat(raw(tmp_path / "raw")[0])
    assert not is_nanochat(llama(tmp_path / "llama"))
    assert not is_nanochat(tmp_path)
