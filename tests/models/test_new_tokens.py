"""Rows for tokens that a base does not know."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GPTJConfig, GPTJForCausalLM, LlamaConfig, LlamaForCausalLM

from agentforge.data.added_tokens import add_tokens
from agentforge.data.chat_template import codec_of, install_template
from agentforge.data.tokenizer import TAG_TOKENS
from agentforge.errors import UserError
from agentforge.models.new_tokens import add_rows, with_trained_rows
from tests.data.small_tokenizers import chatml_tokenizer

SIZES: dict[str, Any] = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}


def llama(**changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, num_attention_heads=2, num_key_value_heads=2, **changes))


@pytest.mark.parametrize("tied", [False, True])
def test_a_row_starts_as_the_mean_of_its_pieces(tied: bool) -> None:
    model = llama(tie_word_embeddings=tied)
    before = [end.weight.clone() for end in (model.get_input_embeddings(), model.get_output_embeddings())]
    add_rows(model, {18: [1, 2], 21: [4], 20: [5, 6, 7]})  # 18 is free, 20 and 21 are not there yet
    for old, end in zip(before, (model.get_input_embeddings(), model.get_output_embeddings()), strict=True):
        assert end.weight.shape == (22, 8)
        torch.testing.assert_close(end.weight[18], old[1:3].mean(0))
        torch.testing.assert_close(end.weight[20], old[5:8].mean(0))
        torch.testing.assert_close(end.weight[21], old[4])
        rest = [*range(18), 19]
        assert torch.equal(end.weight[rest], old[rest])
    assert model.config.vocab_size == 22
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied


def test_options_of_the_recipe_are_kept() -> None:
    model = llama(tie_word_embeddings=False)
    asked = with_trained_rows(model, {"trainable_token_indices": [3], "r": 2}, [19, 18])
    assert asked == {"r": 2, "trainable_token_indices": {"model.embed_tokens": [3, 18, 19], "lm_head": [18, 19]}}
    whole = with_trained_rows(model, {"modules_to_save": ["lm_head"]}, [19])
    assert whole["trainable_token_indices"] == {"model.embed_tokens": [19]}
    both = {"modules_to_save": ["lm_head", "embed_tokens"]}
    assert with_trained_rows(model, both, [19]) == both
    assert with_trained_rows(model, {"r": 2}, []) == {"r": 2}


@pytest.mark.parametrize("targets", [["embed_tokens"], ["q_proj", "lm_head"], ".*(head|q_proj)"])
def test_lora_on_the_same_matrix_is_refused(targets: Any) -> None:
    with pytest.raises(UserError, match=r"adapts (model\.embed_tokens|lm_head), so rows"):
        with_trained_rows(llama(tie_word_embeddings=False), {"target_modules": targets}, [19])


def test_a_head_with_a_bias_is_refused() -> None:
    model = GPTJForCausalLM(GPTJConfig(vocab_size=20, n_embd=8, n_layer=1, n_head=2, rotary_dim=4))
    add_rows(model, {20: [1, 2]})
    torch.testing.assert_close(model.lm_head.bias[20], model.lm_head.bias[1:3].mean())
    with pytest.raises(UserError, match="lm_head has a bias"):
        with_trained_rows(model, {"r": 2}, [20])


def test_only_markers_of_the_template_are_control_tokens() -> None:
    tokenizer = chatml_tokenizer()
    wanted = ["<|user|>", "<tool_call>", "kilopascal"]
    assert add_tokens(tokenizer, wanted, "{{ '<|user|><tool_call>' }}") == ["<|user|>", "kilopascal"]
    added = {token.content: token.special for token in tokenizer.added_tokens_decoder.values()}
    assert added["<|user|>"] and not added["kilopascal"] and not any(added[tag] for tag in TAG_TOKENS)
    assert "kilopascal" not in codec_of(tokenizer).ids, "a word of a trade is read in texts"
    assert tokenizer.decode(tokenizer.encode("one kilopascal")) == "one kilopascal"
    assert add_tokens(tokenizer, wanted, "") == []


def test_a_tokens_text_in_a_message_stays_text() -> None:
    tokenizer = chatml_tokenizer()
    install_template(tokenizer, "chatml", None, ["<|im_start|>", "<|im_end|>"])  # it has them: nothing is added
    assert len(tokenizer) == len(chatml_tokenizer())
