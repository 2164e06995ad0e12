"""Early exits: how sure a layer must be to speak, and the files beside a checkpoint that say so.

``exit_gates.safetensors`` has an `ExitGate` for each exit. ``exits.json`` has what was calibrated for each exit. The
checkpoint itself stays plain.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from agentforge.artifacts import write_json
from agentforge.errors import UserError

GATES = "exit_gates.safetensors"
EXITS = "exits.json"

Confidence = Literal["gate", "max_probability", "softmax_gap"]

GAIN = 10.0
"""Factor on what a gate says. Adam moves a weight by about the learning rate whatever its gradient is, and a gate has
further to go than the trained model beside it: this is ten times the model's rate for it."""

NEVER_SURER = 1e-4
"""Probabilities are read as if they were this far from 0 and 1: logits of a gate's inputs stay below 9.3."""


class ExitGate(nn.Module):
    """A learned guess whether the exit's likeliest token is that of full depth: logistic in what the exit knows.

    It reads the hidden state and how sure the exit's own distribution is. The hidden state alone does much worse
    (docs/adaptive_inference.md). A new gate says the softmax gap.

    Args:
        width: channels of the hidden state.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, 1)
        self.distribution = nn.Linear(2, 1, bias=False)
        # A gate starts as the softmax gap alone, a sensible confidence; training adds what the hidden state knows.
        nn.init.zeros_(self.hidden.weight)
        nn.init.zeros_(self.hidden.bias)
        with torch.no_grad():
            self.distribution.weight.copy_(torch.tensor([[0.0, 1 / GAIN]]))

    @property
    def width(self) -> int:
        """Channels of the hidden state."""
        return self.hidden.in_features

    def forward(self, normed: Tensor, logits: Tensor) -> Tensor:
        """Return the guess before the sigmoid `(...)`, in fp32.

        Args:
            normed: `(..., D)` hidden state of the exit after the final norm.
            logits: `(..., V)` that the head makes of it.
        """
        # Always fp32: bf16 has no number between 0.996 and 1, and that is where the confident tokens are.
        best = logits.float().softmax(-1).topk(2).values
        sure = torch.stack([best[..., 0], best[..., 0] - best[..., 1]], -1)
        sure = torch.logit(sure.clamp(NEVER_SURER, 1 - NEVER_SURER))
        weight, bias, read = (part.to(normed.device, torch.float32) for part in self.parameters())
        said = functional.linear(normed.float(), weight, bias) + functional.linear(sure, read)
        return GAIN * said[..., 0]


@dataclass(frozen=True)
class Exit:
    """One calibrated exit.

    Attributes:
        threshold: the least confidence at which a token may leave; None: no threshold reaches the wanted agreement.
        agreement: share of leaving tokens whose likeliest token is that of full depth, on rows that did not choose the
            threshold; None: no such token.
        low, high: Beta-Jeffreys interval of the agreement.
        wanted: agreement that was asked for.
        tokens: leaving tokens that the agreement was measured on.
        share: of the tokens that come to this exit, the share that leaves.
        confidence: what is compared with the threshold: the learned gate, the likeliest token's probability, or its
            distance from the second (Schuster et al. 2022, CALM, arXiv 2207.07061, section 3.5).
    """

    threshold: float | None
    agreement: float | None
    wanted: float
    tokens: int
    low: float = 0.0
    high: float = 1.0
    share: float = 0.0
    confidence: Confidence = "gate"


@dataclass
class Exits:
    """All exits of a model, by the number of layers that have run."""

    calibrated: dict[int, Exit]
    gates: dict[int, ExitGate] = field(default_factory=dict)


def save_gates(directory: Path, gates: Mapping[int, ExitGate]) -> None:
    """Write the gates beside a checkpoint, by the number of layers that have run before each."""
    tensors = {
        f"{layer}.{name}": tensor.detach().cpu().contiguous()
        for layer, gate in gates.items()
        for name, tensor in gate.state_dict().items()
    }
    save_file(tensors, directory / GATES)


def load_gates(directory: Path) -> dict[int, ExitGate]:
    """Return the gates that lie beside a checkpoint; none if there is no file."""
    path = directory / GATES
    # The tensors' names say which exits there are, so the file needs no config beside it.
    tensors = load_file(path) if path.is_file() else {}
    gates = {}
    for layer in sorted({int(name.split(".")[0]) for name in tensors}):
        own = {name.partition(".")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{layer}.")}
        gate = ExitGate(own["hidden.weight"].shape[1])
        gate.load_state_dict(own)
        gates[layer] = gate.requires_grad_(False)
    return gates


def save_exits(directory: Path, exits: Mapping[int, Exit]) -> None:
    """Write what was calibrated beside a checkpoint."""
    write_json(directory / EXITS, {str(layer): asdict(exit) for layer, exit in sorted(exits.items())})


def load_exits(directory: Path) -> Exits | None:
    """Return what was calibrated for the checkpoint in a directory, with its gates; None if nothing was."""
    path = directory / EXITS
    if not path.is_file():
        return None
    entries = json.loads(path.read_text(encoding="utf-8"))
    return Exits({int(layer): Exit(**entry) for layer, entry in entries.items()}, load_gates(directory))


def exits_of(model: Any) -> Exits:
    """Return a model's calibrated exits: its attribute ``exits``, else the files beside the checkpoint it came from.

    Raises:
        UserError: it has none, or they are another model's.
    """
    # Read once and kept on the model. The checkpoint itself stays exactly what transformers expects.
    exits: Exits | None = getattr(model, "exits", None)
    where = model.name_or_path
    if exits is None and where:
        exits = model.exits = load_exits(Path(where))
    if exits is None or not exits.calibrated:
        raise UserError(
            f"exit_threshold: this model has no calibrated exits ({EXITS} beside {where or 'its checkpoint'}); "
            "calibrate them first with calibrate_exits"
        )
    # Checked at every use: `exits` may have been set by hand, or belong to the model before it was expanded.
    for layer, exit in exits.calibrated.items():
        check_exit(model, layer, exit.confidence, exits.gates)
    return exits


def check_exit(model: Any, layer: int, confidence: str, gates: Mapping[int, ExitGate]) -> None:
    """Refuse an exit that this model cannot have.

    Raises:
        UserError: the layer does not exist, or its gate is missing or of another width.
    """
    layers, width = model.config.num_hidden_layers, model.config.hidden_size
    if not 0 < layer < layers:
        raise UserError(
            f"there can be no exit after layer {layer}: this model has {layers} layers, so exits are 1 to {layers - 1}"
        )
    if confidence != "gate":
        return
    if layer not in gates:
        raise UserError(f"the exit after layer {layer} has no gate in {GATES}; train the gates, or use softmax_gap")
    if gates[layer].width != width:
        raise UserError(
            f"the gate after layer {layer} reads {gates[layer].width} channels, but this model has {width}; "
            "train and calibrate the gates again"
        )


def confidence_of(kind: Confidence, normed: Tensor, logits: Tensor, gate: ExitGate | None) -> Tensor:
    """Return how sure an exit is, in [0, 1].

    Args:
        kind: which of the three.
        normed: `(..., D)` hidden state after the final norm.
        logits: `(..., V)` of the exit.
        gate: of this exit.

    Returns:
        `(...)` in fp32.
    """
    if kind == "gate":
        return torch.sigmoid(cast(ExitGate, gate)(normed, logits))
    best = logits.float().softmax(-1).topk(2).values
    return best[..., 0] if kind == "max_probability" else best[..., 0] - best[..., 1]
