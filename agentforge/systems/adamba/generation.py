"""`generate` with a width, with early exits, or with a width that a router picks for the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from transformers import GenerationMixin

from agentforge.errors import UserError
from agentforge.systems.adamba.exits.exit_decoding import CatchUp, ExitRule
from agentforge.systems.adamba.exits.exit_loop import ExitLoop
from agentforge.systems.adamba.exits.exits import exits_of
from agentforge.systems.adamba.widths.router import route
from agentforge.systems.adamba.widths.submodels import Mix, Model, Widths, submodel

Threshold = float | Literal["calibrated"] | Mapping[int, float]


class AdaptiveGeneration:
    """Makes `generate` take how much to compute; without these arguments it is transformers' own."""

    def generate(
        self,
        *args: Any,
        width: Widths | Mix | None = None,
        exit_threshold: Threshold | None = None,
        catch_up: CatchUp = "exact",
        **kwargs: Any,
    ) -> Any:
        """Generate as `GenerationMixin.generate`, computing less.

        Args:
            width: share of the model that computes, such as ``"1/2"``; or for each layer a pair, its MLP's and its
                mixers', while the residual stream stays whole; or ``"router"``: the router beside the checkpoint
                picks one share, for several prompts the widest that one of them needs.
            exit_threshold: least confidence at which a token leaves early: one for all exits, one for each exit by its
                layer, or ``"calibrated"``. Greedy and sampling only.
            catch_up: how the layers behind an exit get the states of the tokens that left: ``exact`` (full depth's,
                computed later) or ``copy`` (approximate, from the exit's hidden state).

        Raises:
            UserError: no such width; no calibrated exits; both at once; beams with exits.
        """
        return generate(self, *args, width=width, exit_threshold=exit_threshold, catch_up=catch_up, **kwargs)


def generate(
    model: Model,
    *args: Any,
    width: Widths | Mix | None = None,
    exit_threshold: Threshold | None = None,
    catch_up: CatchUp = "exact",
    **kwargs: Any,
) -> Any:
    """`AdaptiveGeneration.generate` for any FalconH1 model."""
    if width is not None and exit_threshold is not None:
        raise UserError(
            "width and exit_threshold cannot be combined: exits are calibrated at full width; give one of the two"
        )
    # The router reads the prompt once, at the narrowest width, before anything is generated.
    if width == "router":
        width = route(model, kwargs.get("input_ids", args[0] if args else None), kwargs.get("attention_mask"))
    if width is not None:
        return _plain(submodel(model, width), *args, **kwargs)
    if exit_threshold is None:
        return _plain(model, *args, **kwargs)
    if catch_up not in get_args(CatchUp):
        raise UserError(f"catch_up is {catch_up!r}; it must be {' or '.join(get_args(CatchUp))}")
    # `generate` sets up cache, processors and stopping criteria as usual, then runs our loop instead of its own.
    loop = ExitLoop(exit_rules(model, exit_threshold), catch_up, kwargs.get("streamer"))
    return _plain(model, *args, custom_generate=loop.run, **kwargs)


def _plain(model: Model, *args: Any, **kwargs: Any) -> Any:
    return GenerationMixin.generate(model, *args, **kwargs)


def exit_rules(model: Model, threshold: Threshold) -> dict[int, ExitRule]:
    """Return when tokens leave, by layer.

    Raises:
        UserError: the model has no calibrated exits, or not after the layers that are named.
    """
    exits = exits_of(model)
    if threshold == "calibrated":
        chosen = {layer: exit.threshold for layer, exit in exits.calibrated.items() if exit.threshold is not None}
    elif isinstance(threshold, Mapping):
        if unknown := sorted(set(threshold) - set(exits.calibrated)):
            known = ", ".join(map(str, sorted(exits.calibrated)))
            raise UserError(f"exit_threshold: no calibrated exit after layer {unknown[0]}; there are: {known}")
        chosen = dict(threshold)
    elif isinstance(threshold, int | float):
        chosen = dict.fromkeys(exits.calibrated, float(threshold))
    else:
        raise UserError(f"exit_threshold is {threshold!r}; give a number, a number for each layer, or 'calibrated'")
    return {
        layer: ExitRule(value, exits.calibrated[layer].confidence, exits.gates.get(layer))
        for layer, value in chosen.items()
    }
