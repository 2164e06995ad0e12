"""Tokenizers: training a small one, and loading any with the check that transformers reads it as it was written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from agentforge.errors import CheckRefused, UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

# Qwen2's own pattern (transformers/models/qwen2/tokenization_qwen2.py): with it llama.cpp's "qwen2" pre-tokenizer reads
# the GGUF exactly as the tokenizers library reads the original.
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TAG_TOKENS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
"""Single tokens that decoding keeps, as in Qwen3: the parser needs to see them."""

BATTERY = (
    "The quick brown fox didn't jump over 12,345 lazy dogs.",
    "  leading, trailing  \n\n\ttabs and\r\nlines \n",
    "def f(x):\n    return {'a': [1, 2.5e-3], \"b\": x**2}  # comment\n",
    "ls -la /var/log | grep -E '^d.*$' && echo \"$HOME\" > out.txt",
    "naïve café — “quotes”, e\u0301 ﬁ ½ № ™",
    "漢字とかな、한국어, Ελληνικά, Русский, العربية, עברית, हिन्दी, ไทย",
    "👩‍👩‍👧‍👦 🏳️‍🌈 𝒳 \u200b\ufeff\u00a0",
    '<tool_call>\n{"name": "bash", "arguments": {"command": "ls"}}\n</tool_call>',
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer that llama.cpp knows as "qwen2".

    Args:
        texts: what it is trained on; any iterable, read once.
        vocab_size: number of tokens, the control tokens included; 256 bytes and 9 added tokens are always in it.

    Raises:
        UserError: the vocabulary is too small to hold the bytes.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    added = len(CONTROL_TOKENS) + len(TAG_TOKENS)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(alphabet) + added:
        raise UserError(
            f"tokenizer.vocab_size is {vocab_size}; the bytes and the control tokens alone are {len(alphabet) + added}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - added, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    # As in Qwen2 the added tokens come after the vocabulary that was learnt, not among its first ids.
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in TAG_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(path: str | Path, revision: str | None = None) -> PreTrainedTokenizerFast:
    """Load a tokenizer and check that it reads and writes as its ``tokenizer.json`` says.

    transformers 5 rebuilds some tokenizers from their class instead of the file (transformers #45488, #47296), which
    changes every token id without an error.

    Args:
        path: directory or Hub id.
        revision: commit or tag of a Hub id.

    Raises:
        UserError: it cannot be found or has no ``tokenizer.json``.
        CheckRefused: the loaded tokenizer differs from the file.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer
    from transformers.utils import cached_file

    if not Path(path).is_dir() and str(path).count("/") != 1:  # a Hub id has one slash
        raise UserError(
            f"no tokenizer could be loaded from {path}: there is no such directory; run the stage that makes it"
        )
    try:
        tokenizer = cast("PreTrainedTokenizerFast", AutoTokenizer.from_pretrained(path, revision=revision))
        file = cached_file(path, "tokenizer.json", revision=revision)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"no tokenizer could be loaded from {path}: {reason}") from error
    original = Tokenizer.from_file(str(file))
    if (text := _first_difference(tokenizer, original)) is not None:
        raise CheckRefused(
            f"transformers reads the tokenizer of {path} otherwise than its tokenizer.json does (at {text!r}); "
            "use another version of transformers"
        )
    return tokenizer


def _first_difference(tokenizer: PreTrainedTokenizerFast, original: Tokenizer) -> str | None:
    for text in BATTERY:
        ids = tokenizer.encode(text, add_special_tokens=False)
        if ids != original.encode(text, add_special_tokens=False).ids:
            return text
        decoded = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if decoded != original.decode(ids, skip_special_tokens=False):
            return text
    return None
