"""Random two-layer models of many architectures, and SentencePiece tokenizers, to be converted."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from agentforge.recipe.schema import Quantization

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
MAMBA = {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
GEMMA = {"query_pre_attn_scalar": 16, "sliding_window": 64}
LOCAL_THEN_GLOBAL = {"layer_types": ["sliding_attention", "full_attention"]}
LOCAL = {"layer_types": ["sliding_attention", "sliding_attention"]}  # Gemma 3's first global layer is the sixth


@dataclass(frozen=True)
class Case:
    """One model.

    Attributes:
        name: the architecture as transformers' classes begin.
        what: what is particular about it.
        changes: entries of its config.
        sentencepiece: its tokenizer is SentencePiece's, otherwise a byte-level BPE.
        kind: of a SentencePiece model: bpe or unigram.
        more_rows: rows of its embedding beyond the tokenizer's tokens.
        refused: what the one sentence says that refuses it; None: it is converted.
        quantized: also make these of it.
    """

    name: str
    what: str = ""
    changes: dict[str, Any] = field(default_factory=dict)
    sentencepiece: bool = False
    kind: str = "bpe"
    more_rows: int = 0
    refused: str | None = None
    quantized: tuple[Quantization, ...] = ()

    @property
    def tokenizer(self) -> str:
        """For the table."""
        return "SentencePiece" if self.sentencepiece else "byte-level BPE"


UNTIED, TIED = {"tie_word_embeddings": False}, {"tie_word_embeddings": True}
YARN = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "rope_theta": 150000.0}
OSS = UNTIED | EXPERTS | {"sliding_window": 64, "max_position_embeddings": 131072}
BAMBA = {"embedding_multiplier": 2.0, "lm_head_multiplier": 0.5}
CASES = [
    Case("Llama", "head of its own", UNTIED),
    Case("Llama", "tied", TIED, sentencepiece=True),
    Case("Llama", "7 rows more than tokens", UNTIED, more_rows=7),
    Case("Llama", "80 wide: no quantised block fits", UNTIED | {"hidden_size": 80, "intermediate_size": 144},
         quantized=("q8", "q4km")),
    Case("Qwen2", "tied, 41 rows more than tokens", TIED, more_rows=41),
    Case("Qwen3", "head of its own", UNTIED),
    Case("Llama", "tied, unigram", TIED, sentencepiece=True, kind="unigram", refused="tokenises"),
    Case("Mistral", "head of its own", UNTIED | {"sliding_window": None}, sentencepiece=True),
    Case("Mistral", "head of its own", UNTIED | {"sliding_window": None}),
    Case("Mixtral", "mixture of 4 experts", UNTIED | EXPERTS),
    Case("Qwen3Moe", "mixture of 4 experts", UNTIED | EXPERTS | {"norm_topk_prob": True}, quantized=("q8", "q4km")),
    Case("Qwen3Moe", "weights of experts not normalised", UNTIED | EXPERTS | {"norm_topk_prob": False},
         refused="norm_topk_prob=false"),
    Case("Gemma2", "tied", TIED | GEMMA | LOCAL_THEN_GLOBAL, sentencepiece=True),
    Case("Gemma2", "tied", TIED | GEMMA | LOCAL_THEN_GLOBAL, refused=r"tokenizer\.model"),
    Case("Gemma3", "text model, tied", TIED | GEMMA | LOCAL, sentencepiece=True),
    Case("Gemma3", "text model, tied", TIED | GEMMA | LOCAL),
    Case("Gemma3", "global layers elsewhere than in Google's models", TIED | GEMMA | LOCAL_THEN_GLOBAL,
         refused="llama.cpp does not compute what"),
    Case("Phi3", "head of its own", UNTIED, sentencepiece=True),
    Case("Phi3", "head of its own", UNTIED, refused=r"tokenizer\.model"),
    Case("GptOss", "ends of YaRN's range rounded", OSS | {"rope_parameters": YARN | {"truncate": True}}),
    Case("GptOss", "ends of YaRN's range not rounded, heads of 16",
         OSS | {"rope_parameters": YARN | {"truncate": False}},
         refused=r"rounds the ends of YaRN's range .* \(truncate: false\)"),
    Case("FalconH1", "Mamba-2 beside attention", UNTIED | MAMBA, quantized=("q4km",)),
    Case("FalconH1", "tied, different multipliers", TIED | MAMBA | BAMBA),
]  # fmt: skip


def save_model(case: Case, tokenizer: PreTrainedTokenizerBase, directory: Path) -> Path:
    """Save a random model of a case with its tokenizer."""
    prefix = "Gemma3Text" if case.name == "Gemma3" else case.name
    roles = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "pad")}
    vocabulary = {"vocab_size": len(tokenizer) + case.more_rows}
    config = getattr(transformers, f"{prefix}Config")(**SMALL | vocabulary | roles | case.changes)
    torch.manual_seed(0)
    model = getattr(transformers, f"{case.name}ForCausalLM")(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)  # a norm left out would show
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def sentencepiece_tokenizer(directory: Path, text: str, prefix: bool, kind: str = "bpe") -> PreTrainedTokenizerFast:
    """Train a SentencePiece model and save it as ``tokenizer.model`` and as ``tokenizer.json``.

    Args:
        directory: where to.
        text: what it is trained on.
        prefix: a space is put before every text, as Llama does and Gemma does not.
        kind: bpe or unigram.
    """
    import sentencepiece

    (directory / "text.txt").write_text(text, encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(directory / "text.txt"),
        model_prefix=str(directory / "tokenizer"),
        model_type=kind,
        vocab_size=600,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=prefix,
        pad_id=3,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))
    tokenizer = Tokenizer(_unigram(pieces) if kind == "unigram" else _bpe(pieces))
    replace = normalizers.Replace(" ", "\u2581")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), replace]) if prefix else replace
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    roles = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)
    if not prefix:  # llama.cpp would put a space behind them, too, and transformers does not
        made.add_tokens(["<tool_call>", "<|im_start|>"])  # tokens that tokenizer.model does not have
    made.save_pretrained(directory)
    return made


def _bpe(pieces: Any) -> models.BPE:
    vocabulary = {pieces.id_to_piece(number): number for number in range(len(pieces))}
    ordinary = [piece for piece, number in vocabulary.items() if not piece.startswith("<") and number > 3]
    splits = ((piece[:at], piece[at:]) for piece in ordinary for at in range(1, len(piece)))
    merges = [pair for pair in splits if vocabulary.keys() >= set(pair)]
    # SentencePiece merges what has the best score first, which is the order of its ids.
    return models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)


def _unigram(pieces: Any) -> models.Unigram:
    scored = [(pieces.id_to_piece(number), pieces.get_score(number)) for number in range(len(pieces))]
    return models.Unigram(scored, unk_id=pieces.unk_id(), byte_fallback=True)
