"""Tokenizers: training a small one, and loading any one while checking that transformers reads it as it was written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from agentforge.artifacts import hash_json, sha256_file
from agentforge.errors import CheckRefused, UserError, first_line
from agentforge.recipe.schema import Model
from agentforge.systems.registry import named

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

TOKENIZER_JSON = "tokenizer.json"
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

NO_TOKENIZER = (
    "the recipe has no tokenizer: set model.path, or model.tokenizer to a path, to {vocab_size: ...} to train one, or "
    "to the name of a system's tokenizer"
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
            f"model.tokenizer.vocab_size is {vocab_size}; it must be at least {len(alphabet) + added}, the "
            "number of bytes and control tokens"
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
    # With all 256 bytes in the alphabet no text is unknown, not even one with bytes that the training texts lack.
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


def open_tokenizer(path: str | Path, **options: Any) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a directory or a Hub id, as `AutoTokenizer.from_pretrained` with the same options.

    A directory without ``tokenizer.json`` may hold a tokenizer that a system brings (bytes have no vocabulary file):
    its class must be known to transformers first.
    """
    from transformers import AutoTokenizer

    if Path(path).is_dir() and not (Path(path) / TOKENIZER_JSON).is_file():
        from agentforge.models.auto import register_all

        register_all()
    opened: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, **options)
    return opened


def model_tokenizer(model: Model) -> PreTrainedTokenizerBase:
    """Return the tokenizer that a recipe names: a system's own, or that of a directory or Hub id.

    Args:
        model: names one, in `tokenizer` or in `path`; one that is still to be trained is not here.

    Raises:
        UserError: it cannot be found.
        CheckRefused: it reads text otherwise than its file says.
    """
    if isinstance(model.tokenizer, str) and (make := named("tokenizers", model.tokenizer)) is not None:
        made: PreTrainedTokenizerBase = make()
        return made
    path = model.tokenizer or model.path
    if path is None:
        raise UserError(NO_TOKENIZER)
    assert isinstance(path, str), "one that is to be trained is trained by `prepare`"
    # `model.revision` pins `model.path`; it says nothing about a tokenizer from elsewhere.
    return load_tokenizer(path, model.revision if path == model.path else None)


def load_tokenizer(path: str | Path, revision: str | None = None) -> PreTrainedTokenizerFast:
    """Load a tokenizer and check that it reads and writes as its ``tokenizer.json`` says.

    transformers 5 rebuilds some tokenizers from their class instead of the file (transformers #45488, #47296), which
    changes every token id without an error. A system's tokenizer without such a file is its class, and is taken as is.

    Args:
        path: directory or Hub id.
        revision: commit or tag of a Hub id.

    Raises:
        UserError: it cannot be found.
        CheckRefused: the loaded tokenizer differs from the file.
    """
    from tokenizers import Tokenizer
    from transformers.utils import cached_file

    if not Path(path).is_dir() and str(path).count("/") != 1:  # a Hub id has one slash
        raise UserError(
            f"no tokenizer could be loaded from {path}: there is no such directory; run the stage that makes it"
        )
    try:
        tokenizer = cast("PreTrainedTokenizerFast", open_tokenizer(path, revision=revision))
        file = cached_file(path, TOKENIZER_JSON, revision=revision, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError) as error:
        reason = first_line(error)
        raise UserError(f"no tokenizer could be loaded from {path}: {reason}") from error
    if file is None:
        return _refuse_lossy(tokenizer, path)
    # The file once more, read without transformers: both must give
    # the same ids for the same texts, and the same texts back.
    original = Tokenizer.from_file(str(file))
    if (text := _first_difference(tokenizer, original)) is not None:
        raise CheckRefused(
            f"transformers reads {text!r} with the tokenizer of {path} differently than its tokenizer.json does; "
            "use another version of transformers"
        )
    return tokenizer


def _refuse_lossy(tokenizer: PreTrainedTokenizerFast, path: str | Path) -> PreTrainedTokenizerFast:
    """Return a tokenizer without ``tokenizer.json`` if it gives texts back as they were."""
    for text in BATTERY:
        ids = tokenizer.encode(text, add_special_tokens=False)
        if tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) != text:
            raise CheckRefused(
                f"the tokenizer of {path} has no {TOKENIZER_JSON} and does not reproduce {text!r}; save it "
                "as a fast tokenizer, or use another one"
            )
    return tokenizer


def tokenizer_files_hash(directory: Path) -> str:
    """Return what identifies a saved tokenizer: the hash of its ``tokenizer.json``, or of all its files without one."""
    file = directory / TOKENIZER_JSON
    if file.is_file():
        return sha256_file(file)
    return hash_json({path.name: sha256_file(path) for path in sorted(directory.iterdir())})


def _first_difference(tokenizer: PreTrainedTokenizerFast, original: Tokenizer) -> str | None:
    for text in BATTERY:
        ids = tokenizer.encode(text, add_special_tokens=False)
        if ids != original.encode(text, add_special_tokens=False).ids:
            return text
        decoded = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if decoded != original.decode(ids, skip_special_tokens=False):
            return text
    return None
