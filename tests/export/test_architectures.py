"""Models of other architectures: each is converted and computes the same, or is refused in one sentence."""

from __future__ import annotations

import pydoc
import shutil
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from agentforge.errors import CheckRefused
from agentforge.export.check_gguf import check_file
from agentforge.export.convert import quantize
from agentforge.export.gguf import Unquantized
from tests.export.architectures import CASES, Case, save_model, sentencepiece_tokenizer
from tests.export.export_models import make_recipe, needs_llama_cpp
from tests.export.test_gguf import LOOSE
from tests.manifests import write_manifest

pytestmark = [pytest.mark.gguf, needs_llama_cpp]
DOCS = Path(__file__).parents[2] / "docs" / "export.md"


@pytest.fixture(scope="module")
def sentencepiece_files(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Path]:
    """Directories of SentencePiece tokenizers by kind, with a space before every text or without."""
    text = "\n".join(str(member.__doc__) for member in [pydoc, *vars(str).values()])
    made = {key: tmp_path_factory.mktemp("sentencepiece") for key in (("bpe", True), ("bpe", False), ("unigram", True))}
    for (kind, prefix), directory in made.items():
        sentencepiece_tokenizer(directory, text, prefix, kind)
    return made


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}, {case.what}, {case.tokenizer}")
def test_it_is_converted_or_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, sentencepiece_files: dict[tuple[str, bool], Path], case: Case
) -> None:
    pieces = sentencepiece_files[case.kind, "Gemma" not in case.name]
    read_by = PreTrainedTokenizerFast.from_pretrained(pieces) if case.sentencepiece else tokenizer
    recipe = make_recipe(tmp_path, tmp_path)
    model = save_model(case, read_by, recipe.artifact("merged"))
    if case.sentencepiece:
        shutil.copy(pieces / "tokenizer.model", model)
    write_manifest(model)
    original = Unquantized(recipe, model)
    if case.refused is None:
        original.make()  # it is compared there
        for quantization in case.quantized:
            file = tmp_path / f"{quantization}.gguf"
            quantize(original.file, file, quantization)
            found = check_file(file, original.reference(quantization))
            assert found.text.kl < LOOSE["max_kl"]["q4km"]
            assert not found.tensors.others
    else:
        with pytest.raises(CheckRefused, match=case.refused) as refusal:
            original.make()
        assert "\n" not in str(refusal.value)
    outcome = "converted, equal" if case.refused is None else "refused"
    assert f"| {case.name} | {case.what} | {case.tokenizer} | {outcome} |" in DOCS.read_text(encoding="utf-8")
