"""Which code runs the mixer: transformers' with its kernels on a CUDA GPU that has them, ours everywhere else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.models.falcon_h1.modeling_falcon_h1 import FalconH1Mixer

from agentforge.systems.adamba.modeling import mixer as mixer_module
from tests.systems.adamba.modeling.test_modeling import adamba, tokens


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The devices on which transformers' mixer was called; mamba_ssm seems to be installed."""
    called: list[str] = []
    forward = FalconH1Mixer.forward

    def recorded(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        called.append(hidden_states.device.type)
        return forward(self, hidden_states, *args, **kwargs)

    monkeypatch.setattr(FalconH1Mixer, "forward", recorded)
    monkeypatch.setattr(mixer_module, "is_mamba_2_ssm_available", lambda: True)
    return called


def test_a_model_on_the_cpu_never_gets_cuda_kernels(theirs: list[str]) -> None:
    """transformers would call mamba_ssm here, for it looks at what is installed and not at the tensors."""
    adamba()(tokens())
    assert theirs == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@torch.no_grad()
def test_a_gpu_computes_what_the_cpu_does() -> None:
    model, ids = adamba(), tokens()
    wanted = model(ids).logits
    found = model.cuda()(ids.cuda()).logits.cpu()
    assert (found - wanted).abs().max() < 1e-3 * wanted.abs().max()
