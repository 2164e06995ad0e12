"""SentencePiece vocabularies in a GGUF: each token, type and score is that of ``tokenizer.model``, or it is refused."""

from __future__ import annotations

import copy
import pydoc
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentforge.errors import CheckRefused
from agentforge.export.check_gguf import _read
from agentforge.export.gguf import Unquantized
from agentforge.export.gguf_pieces import Pieces, check_scores, read_pieces
from agentforge.export.gguf_vocabulary import check_vocabulary
from tests.export.architectures import GEMMA, LOCAL, TIED, Case, save_model, sentencepiece_tokenizer
from tests.export.export_models import make_recipe, needs_llama_cpp
from tests.manifests import write_manifest

pytestmark = [pytest.mark.gguf, needs_llama_cpp]
TOKENS, TYPES, SCORES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.scores"
TEXT = "\n".join(str(member.__doc__) for member in [pydoc, *vars(str).values()])
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Any, Pieces]:
    """What the converter wrote of a BPE with added tokens and rows that no token has; its tokenizer and pieces."""
    directory = tmp_path_factory.mktemp("pieces")
    recipe = make_recipe(directory, directory)
    trained = tmp_path_factory.mktemp("tokenizer")
    tokenizer = sentencepiece_tokenizer(trained, TEXT, prefix=False)
    case = Case("Gemma3", changes=TIED | GEMMA | LOCAL, more_rows=5)
    model = save_model(case, tokenizer, recipe.artifact("merged"))
    shutil.copy(trained / "tokenizer.model", model)
    write_manifest(model)
    original = Unquantized(recipe, model)
    original.make()
    pieces = original.pieces
    assert pieces is not None
    return _read(original.file)[0], original.tokenizer, pieces


def test_the_conversion_is_sound(converted: tuple[dict[str, Any], Any, Pieces]) -> None:
    fields, tokenizer, pieces = converted
    check_vocabulary(fields, tokenizer, pieces)
    assert fields[SCORES][-1] == -10_000, "a row that no token has"
    assert fields[SCORES][fields[TOKENS].index("<tool_call>")] == -1000


def put(name: str, number: int, value: Any) -> Change:
    return lambda fields: fields[name].__setitem__(number, value)


def swap(left: int, right: int) -> Change:
    def change(fields: dict[str, Any]) -> None:
        scores = fields[SCORES]
        scores[left], scores[right] = scores[right], scores[left]

    return change


DAMAGE: dict[str, tuple[Change, str]] = {
    "two scores swapped": (swap(400, 401), r"gives token 400 .* the score -14\d instead of -14"),
    "the last two pieces' scores swapped": (swap(598, 599), "gives token 598"),
    "a score a little off": (put(SCORES, 500, -240.01), "gives token 500 .* the score -240.01 instead of -240"),
    "a score of NaN": (put(SCORES, 300, float("nan")), "gives token 300 .* the score nan"),
    "a score of zero": (put(SCORES, 300, 0.0), "gives token 300"),
    "an added token that is merged": (put(SCORES, 600, -1.0), r"gives token 600 \('<tool_call>'\) the score -1 inst"),
    "a row without a token that is likely": (put(SCORES, -1, 0.0), "score 0 instead of -10000"),
    "a score lost": (lambda fields: fields[SCORES].pop(), r"has \d+ scores for \d+ tokens"),
    "no scores": (lambda fields: fields.pop(SCORES), "has 0 scores"),
    "one score for all": (lambda fields: fields.update({SCORES: [-1000.0] * len(fields[TOKENS])}), "score -1000"),
    "a byte is a normal token": (put(TYPES, 70, 1), r"gives token 70 \('<0x[0-9A-F]+>'\) the type 1 instead of 6"),
    "a normal token is a byte": (put(TYPES, 400, 6), "gives token 400 .* the type 6 instead of 1"),
    "a normal token is unknown": (put(TYPES, 400, 2), "gives token 400 .* the type 2 instead of 1"),
    "a normal token is unused": (put(TYPES, 400, 5), "gives token 400 .* the type 5 instead of 1"),
    "a normal token is control": (put(TYPES, 400, 3), "gives token 400 .* the type 3 instead of 1"),
    "the unknown token is normal": (put(TYPES, 0, 1), r"gives token 0 \('<unk>'\) the type 1 instead of 3"),
    "a row without a token is normal": (put(TYPES, -1, 1), "the type 1 instead of 5"),
    "two pieces swapped": (
        lambda fields: fields[TOKENS].__setitem__(slice(400, 402), fields[TOKENS][400:402][::-1]), "calls token 400"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_refused(converted: tuple[dict[str, Any], Any, Pieces], what: str) -> None:
    fields, tokenizer, pieces = converted
    fields = copy.deepcopy(fields)
    damage, message = DAMAGE[what]
    damage(fields)
    with pytest.raises(CheckRefused, match=message):
        check_vocabulary(fields, tokenizer, pieces)


def test_scores_of_another_tokenizer_model_are_refused(converted: tuple[dict[str, Any], Any, Pieces]) -> None:
    """The conversion agrees with ``tokenizer.model``, but transformers merges in another order."""
    fields, tokenizer, pieces = converted
    scores = list(pieces.scores)
    scores[400], scores[401] = scores[401], scores[400]
    with pytest.raises(CheckRefused, match=r"tokenizer\.json says otherwise than tokenizer\.model \(that .* is merged"):
        check_scores(
            fields | {SCORES: [*scores, *fields[SCORES][600:]]}, tokenizer, Pieces(pieces.texts, scores, pieces.types)
        )


def test_a_unigram_model(tmp_path: Path) -> None:
    tokenizer = sentencepiece_tokenizer(tmp_path, TEXT, prefix=True, kind="unigram")
    pieces = read_pieces(tmp_path)
    assert pieces is not None
    scores = [-1000.0 if number in tokenizer.added_tokens_decoder else s for number, s in enumerate(pieces.scores)]
    fields = {"tokenizer.ggml.model": "llama", TOKENS: list(pieces.texts), SCORES: scores}
    check_scores(fields, tokenizer, pieces)
    first = next(n for n in range(300, 600) if scores[n] != scores[n + 1])
    changed = list(scores)
    changed[first : first + 2] = changed[first : first + 2][::-1]
    with pytest.raises(CheckRefused, match=f"gives token {first} "):
        check_scores(fields | {SCORES: changed}, tokenizer, pieces)
    with pytest.raises(CheckRefused, match=r"tokenizer\.model \(the score of"):
        check_scores(fields | {SCORES: changed}, tokenizer, Pieces(pieces.texts, changed, pieces.types))


def test_a_damaged_tokenizer_model_is_one_sentence(tmp_path: Path) -> None:
    assert read_pieces(tmp_path) is None
    (tmp_path / "tokenizer.model").write_bytes(b"\x00no proto")
    with pytest.raises(CheckRefused, match=r"tokenizer\.model is damaged"):
        read_pieces(tmp_path)


def test_without_a_tokenizer_model_all_scores_are_one(converted: tuple[dict[str, Any], Any, Pieces]) -> None:
    """So the converter writes them for a tokenizer.json alone; then the battery of texts decides."""
    fields, tokenizer, _ = converted
    check_scores(fields | {SCORES: [-1000.0] * len(fields[TOKENS])}, tokenizer, None)
    with pytest.raises(CheckRefused, match="instead of -1000"):
        check_scores(fields, tokenizer, None)
