"""The loop that writes token after token with early exits, between what `generate` prepares and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation import GenerateDecoderOnlyOutput
from transformers.generation.configuration_utils import GenerationMode

from agentforge.errors import UserError
from agentforge.systems.adamba.exits.exit_decoding import CatchUp, ExitDecoder, ExitRule
from agentforge.systems.adamba.widths.submodels import Model


@dataclass
class ExitOutput(GenerateDecoderOnlyOutput):
    """What `generate` returns with exits and `return_dict_in_generate`.

    Attributes:
        depths: layers that each step ran before its token was chosen; the first is the prompt's, always all.
    """

    depths: list[int] | None = None


class ExitLoop:
    """The loop of greedy decoding and sampling, with everything that `generate` has prepared for it.

    Args:
        rules: when tokens leave.
        catch_up: see `exit_decoding`.
        streamer: gets each token.
    """

    def __init__(self, rules: Mapping[int, ExitRule], catch_up: CatchUp, streamer: Any = None) -> None:
        self.rules, self.catch_up, self.streamer = rules, catch_up, streamer

    @torch.no_grad()
    def run(
        self,
        model: Model,
        input_ids: Tensor,
        logits_processor: Callable[[Tensor, Tensor], Tensor],
        stopping_criteria: Callable[[Tensor, Tensor], Tensor],
        generation_config: GenerationConfig,
        **model_kwargs: Any,
    ) -> Any:
        """Return the tokens, or an `ExitOutput`, as `GenerationMixin._sample` does.

        Raises:
            UserError: beams or another way that is not one token after the other, or no cache.
        """
        check_mode(generation_config)
        prompt = model._prefill(input_ids, generation_config, model_kwargs)
        model_kwargs = model._update_model_kwargs_for_generation(prompt, model_kwargs)
        decoder = ExitDecoder(model, prompt.past_key_values, self.rules, self.catch_up)
        logits = prompt.logits[:, -1]
        pad = generation_config._pad_token_tensor
        unfinished = torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
        steps: list[tuple[Tensor, Tensor]] = []
        # This is transformers' sampling loop with one change: `decoder.step` reads the token instead of the whole
        # model.
        while True:
            logits = logits.to(copy=True, dtype=torch.float32)
            scores = logits_processor(input_ids, logits)
            if generation_config.return_dict_in_generate:
                steps.append((scores, logits))
            tokens = choose(scores, generation_config.do_sample)
            if pad is not None:
                tokens = torch.where(unfinished, tokens, pad.to(tokens.device))
            input_ids = torch.cat([input_ids, tokens[:, None]], dim=-1)
            if self.streamer is not None:
                self.streamer.put(tokens.cpu())
            unfinished = unfinished & ~stopping_criteria(input_ids, scores)
            if not unfinished.any():
                break
            positions, mask = model_kwargs["position_ids"], model_kwargs.get("attention_mask")
            logits = decoder.step(tokens[:, None], positions, mask, unfinished)
            model_kwargs = model._update_model_kwargs_for_generation({}, model_kwargs)
        if self.streamer is not None:
            self.streamer.end()
        return self._result(input_ids, steps, decoder, generation_config, model_kwargs)

    def _result(
        self,
        input_ids: Tensor,
        steps: list[tuple[Tensor, Tensor]],
        decoder: ExitDecoder,
        config: GenerationConfig,
        model_kwargs: Mapping[str, Any],
    ) -> Any:
        """The cache that is handed out, or was handed in, is made whole first."""
        # Tokens may still be waiting at exits. Whoever continues with this cache would miss them in the deeper
        # layers.
        cache = decoder.cache
        if config.return_dict_in_generate or getattr(cache, "_is_user_defined", False):
            mask = model_kwargs.get("attention_mask")
            decoder.finish(model_kwargs["position_ids"][..., :-1], None if mask is None else mask[:, :-1])
        if not config.return_dict_in_generate:
            return input_ids
        return ExitOutput(
            sequences=cast(torch.LongTensor, input_ids),
            scores=cast(Any, tuple(scores for scores, _ in steps)) if config.output_scores else None,
            logits=cast(Any, tuple(logits for _, logits in steps)) if config.output_logits else None,
            past_key_values=cache,
            depths=[decoder.model.config.num_hidden_layers, *decoder.depths],
        )


def choose(scores: Tensor, sample: bool) -> Tensor:
    """Return one token a row: drawn, or the likeliest."""
    if sample:
        return torch.multinomial(scores.softmax(-1), num_samples=1)[:, 0]
    return scores.argmax(-1)


def check_mode(config: GenerationConfig) -> None:
    """Refuse what does not write one token after the other, each from the cache of those before."""
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise UserError(f"exit_threshold: exits work with greedy decoding and sampling, not with {mode.value}")
    if config.use_cache is False:
        raise UserError("exit_threshold: exits need the cache; do not set use_cache to False")
