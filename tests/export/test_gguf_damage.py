"""The gate of a GGUF: every sound file passes, and no file that was damaged in any one place does."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from agentforge.errors import CheckRefused
from agentforge.export.check_gguf import (
    Findings,
    Reference,
    check_contents,
    check_file,
    refuse_conversion,
    refuse_disagreement,
)
from agentforge.export.convert import quantize
from agentforge.export.gguf import Unquantized
from agentforge.export.merge import merge_stage
from agentforge.recipe.schema import Quantization, Recipe
from tests.export.export_models import MakeBase, make_adapter, make_recipe, needs_llama_cpp
from tests.export.gguf_damage import Contents, Damage, damaged
from tests.export.test_gguf import LOOSE

pytestmark = [pytest.mark.gguf, needs_llama_cpp]
Kind = Quantization | Literal["conversion"]
QUANTIZATIONS: tuple[Quantization, ...] = ("f16", "q8", "q5km", "q4km")
TOKENS, TYPES, MERGES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges"
EMBEDDING, UP, DOWN, NORM = (
    "token_embd.weight",
    "blk.0.ffn_up.weight",
    "blk.1.ffn_down.weight",
    "blk.1.attn_norm.weight",
)


class Files:
    """A checkpoint, its conversion and its quantisations."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.original = Unquantized(recipe, merge_stage(recipe))
        self.original.make()
        self.paths = {name: self.original.directory / f"sound-{name}.gguf" for name in QUANTIZATIONS}
        for name, path in self.paths.items():
            quantize(self.original.file, path, name)

    def file(self, kind: Kind) -> Path:
        return self.original.file if kind == "conversion" else self.paths[kind]

    def reference(self, kind: Kind) -> Reference:
        return self.original.reference(None if kind == "conversion" else kind)

    def examine(self, kind: Kind, file: Path) -> Findings:
        """The whole gate."""
        found = check_file(file, self.reference(kind))
        if kind == "conversion":
            refuse_conversion("Tiny", found)
        else:
            refuse_disagreement(self.recipe, kind, found)
        return found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, make_base: MakeBase) -> Files:
    return make_files(tmp_path_factory, make_base, tied=False)


@pytest.fixture(scope="module")
def tied_files(tmp_path_factory: pytest.TempPathFactory, make_base: MakeBase) -> Files:
    return make_files(tmp_path_factory, make_base, tied=True)


def make_files(tmp_path_factory: pytest.TempPathFactory, make_base: MakeBase, tied: bool) -> Files:
    base = make_base(
        tied=tied,
        hidden_size=256,
        intermediate_size=256,
        initializer_range=0.06,
        rope_parameters={"rope_type": "default", "rope_theta": 50_000.0},
    )
    recipe = make_recipe(
        tmp_path_factory.mktemp("runs"), base, dtype="bfloat16", license="apache-2.0", hub_repo="someone/tiny", **LOOSE
    )
    make_adapter(base, recipe.trained)
    return Files(recipe)


@pytest.mark.parametrize("made", ["files", "tied_files"])
@pytest.mark.parametrize("kind", ["conversion", *QUANTIZATIONS])
def test_sound_files_pass(request: pytest.FixtureRequest, made: str, kind: Kind) -> None:
    sound: Files = request.getfixturevalue(made)
    found = sound.examine(kind, sound.file(kind))
    assert found.coverage == 1
    assert not found.tensors.others
    assert len(found.tensors.compared) == len(sound.original.weights.tensors)


def test_a_tied_model_with_another_head(tied_files: Files, tmp_path: Path) -> None:
    def other_head(contents: Contents) -> None:
        data, kind = contents.tensors[EMBEDDING]
        contents.tensors["output.weight"] = (data[::-1].copy(), kind)

    file = damaged(tied_files.file("q8"), tmp_path / "damaged.gguf", other_head)
    with pytest.raises(CheckRefused, match=r"the tensor output\.weight"):
        check_contents(file, tied_files.reference("q8"))
    file = damaged(tied_files.file("conversion"), tmp_path / "converted.gguf", other_head)
    with pytest.raises(CheckRefused, match=r"output\.weight is not the checkpoint's"):
        check_contents(file, tied_files.reference("conversion"))


@pytest.mark.parametrize("kind", ["conversion", "q8", "q4km"])
def test_a_file_written_again_passes(files: Files, tmp_path: Path, kind: Kind) -> None:
    """So that the damage below is what is refused, and not the way in which it is written."""
    files.examine(kind, damaged(files.file(kind), tmp_path / "same.gguf", lambda contents: None))


def swap_rows(name: str, left: int, right: int) -> Damage:
    def damage(contents: Contents) -> None:
        rows = contents.data(name)
        rows[[left, right]] = rows[[right, left]]

    return damage


def swap_tensors(left: str, right: str) -> Damage:
    def damage(contents: Contents) -> None:
        contents.tensors[left], contents.tensors[right] = contents.tensors[right], contents.tensors[left]

    return damage


def fill(name: str, where: int | slice, value: float) -> Damage:
    def damage(contents: Contents) -> None:
        contents.data(name)[where] = value

    return damage


def change(name: str, value: object) -> Damage:
    return lambda contents: contents.set(name, value)


def id_of(text: str) -> Callable[[Contents], int]:
    return lambda contents: contents.entries[TOKENS][0].index(text)


def swap_tokens(left: str, right: str) -> Damage:
    return lambda contents: contents.swap(TOKENS, id_of(left)(contents), id_of(right)(contents))


def retype(text: str, kind: int) -> Damage:
    return lambda contents: contents.put(TYPES, id_of(text)(contents), kind)


def flip_scales(contents: Contents) -> None:
    """The float16 scale of one block of one row: its sign."""
    rows = contents.data(EMBEDDING).view(np.uint8).reshape(contents.data(EMBEDDING).shape[0], -1)
    rows[17, 1] ^= 0x80


def longer(contents: Contents) -> None:
    for name, more in ((TOKENS, "one more"), (TYPES, 1)):
        contents.set(name, [*contents.entries[name][0], more])


def other_head(contents: Contents) -> None:
    """A tied model's embedding as the head of an untied one."""
    contents.tensors["output.weight"] = contents.tensors[EMBEDDING]


def rename_tensor(contents: Contents) -> None:
    contents.tensors["blk.0.ffn_side.weight"] = contents.tensors.pop(UP)


def halve(contents: Contents) -> None:
    data, kind = contents.tensors[UP]
    contents.tensors[UP] = (data[:128], kind)


def scale(contents: Contents) -> None:
    """The scales of all blocks of Q8_0 by a tenth: every row is wrong alike."""
    blocks = contents.data(UP).reshape(-1, 34)
    blocks[:, :2] = (blocks[:, :2].copy().view(np.float16) * np.float16(1.1)).view(np.uint8)


# What is done to a file of q8, and what the refusal says. Each is seen without running the model.
DAMAGE: dict[str, tuple[Damage, str]] = {
    "embedding rows swapped": (swap_rows(EMBEDDING, 11, 12), r"token_embd\.weight .* differs .* in 2 of 600 rows"),
    "head rows swapped": (swap_rows("output.weight", 590, 591), r"output\.weight .* differs .* in 2 of 600"),
    "weight rows swapped": (swap_rows(DOWN, 0, 200), r"ffn_down\.weight .* differs .* in 2 of 256"),
    "query rows swapped": (swap_rows("blk.0.attn_q.weight", 0, 1), r"attn_q\.weight .* in 2 of 64"),
    "layers swapped": (swap_tensors(UP, "blk.1.ffn_up.weight"), r"ffn_up\.weight is not that of its conversion"),
    "gate and up swapped": (swap_tensors(UP, "blk.0.ffn_gate.weight"), r"is not that of its conversion"),
    "embedding as head": (other_head, r"output\.weight is not"),
    "a weight row of zeros": (fill(UP, 7, 0), r"ffn_up\.weight .* in 1 of 256 rows, first in row 7"),
    "an embedding row of zeros": (fill(EMBEDDING, 599, 0), r"token_embd\.weight .* first in row 599"),
    "a norm element of zero": (fill(NORM, 3, 0), r"attn_norm\.weight \(F32\) differs .* first in row 3"),
    "a norm element a little off": (fill(NORM, 3, 1.001), r"attn_norm\.weight \(F32\) differs"),
    "a norm of NaN": (fill(NORM, slice(None), np.nan), r"attn_norm\.weight .* in 256 of 256"),
    "a sign of a scale": (flip_scales, r"token_embd\.weight .* in 1 of 600 rows, first in row 17"),
    "scales of a tensor": (scale, r"ffn_up\.weight is not that of its conversion"),
    "a tensor under another name": (rename_tensor, r"do not both have the tensor blk\.0\.ffn_side"),
    "a tensor lost": (lambda contents: contents.tensors.pop(DOWN), r"do not both have the tensor blk\.1\.ffn_down"),
    "the head lost": (lambda contents: contents.tensors.pop("output.weight"), r"lacks the tensor output\.weight"),
    "half a tensor": (halve, r"ffn_up\.weight is not that of its conversion"),
    "a tensor too many": (
        lambda contents: contents.tensors.update({"blk.1.extra.weight": contents.tensors[NORM]}),
        r"do not both have the tensor blk\.1\.extra\.weight",
    ),
    "tool markers swapped": (swap_tokens("<tool_response>", "</tool_response>"), r"calls token \d+ '</tool_response>'"),
    "two ordinary tokens swapped": (lambda contents: contents.swap(TOKENS, 300, 301), "calls token 300"),
    "the end of a turn is a normal token": (retype("<|im_end|>", 1), r"<\|im_end\|>'\) the type 1 instead of 3"),
    "an ordinary token is a control token": (retype("a", 3), r"\('a'\) the type 3 instead of 1"),
    "a marker is a control token": (retype("<tool_call>", 3), r"<tool_call>'\) the type 3 instead of 4"),
    "a token too many": (longer, "as many tokens as 601, but the checkpoint 600"),
    "two merges swapped": (lambda contents: contents.swap(MERGES, 1, 2), "as merge 1"),
    "a merge lost": (lambda contents: contents.set(MERGES, contents.entries[MERGES][0][:-1]), r"has \d+ merges"),
    "padding is the end": (
        lambda contents: contents.set("tokenizer.ggml.padding_token_id", id_of("<|im_end|>")(contents)),
        r"as padding token, but",
    ),
    "another end": (change("tokenizer.ggml.eos_token_id", 65), "has 65 as eos token"),
    "no end": (lambda contents: contents.entries.pop("tokenizer.ggml.eos_token_id"), "has None as eos token"),
    "another pre-tokenizer": (change("tokenizer.ggml.pre", "llama-bpe"), r"has tokenizer\.ggml\.pre 'llama-bpe'"),
    "begins texts": (
        lambda contents: contents.add("tokenizer.ggml.add_bos_token", True, "BOOL"),
        r"has tokenizer\.ggml\.add_bos_token True, but its conversion None",
    ),
    "a short context": (change("qwen3.context_length", 64), r"context_length 64, but the checkpoint 512"),
    "a long context": (change("qwen3.context_length", 1_000_000), r"context_length 1000000, but"),
    "rope's base 5 % off": (change("qwen3.rope.freq_base", 52_500.0), r"rope\.freq_base 52500\.0, but"),
    "no base of rope": (
        lambda contents: contents.entries.pop("qwen3.rope.freq_base"),
        r"rope\.freq_base 10000\.0, but the checkpoint 50000\.0",
    ),
    "rope scaled": (
        lambda contents: contents.add("qwen3.rope.scaling.factor", 4.0, "FLOAT32"),
        r"rope\.scaling\.factor 4\.0, but the checkpoint None",
    ),
    "another eps": (change("qwen3.attention.layer_norm_rms_epsilon", 1e-5), "layer_norm_rms_epsilon"),
    "fewer heads": (change("qwen3.attention.head_count", 2), r"head_count 2, but the checkpoint 4"),
    "more key heads": (change("qwen3.attention.head_count_kv", 4), r"head_count_kv 4, but the checkpoint 2"),
    "wider heads": (change("qwen3.attention.key_length", 32), r"key_length 32, but the checkpoint 16"),
    "a layer less": (change("qwen3.block_count", 1), r"block_count 1, but the checkpoint 2"),
    "another name": (change("general.name", "View"), r"general\.name 'View', but the checkpoint 'Tiny'"),
    "another version": (change("general.version", "9.9.9"), r"general\.version '9\.9\.9'"),
    "another licence": (change("general.license", "mit"), r"general\.license 'mit'"),
    "no base model": (lambda contents: contents.entries.pop("general.base_model.0.name"), r"base_model\.0\.name None"),
    "another quantisation": (change("general.file_type", 15), r"general\.file_type 15, but the checkpoint 7"),
    "another template": (change("tokenizer.chat_template", "{{ messages }}"), "chat template differs"),
    "no template": (lambda contents: contents.entries.pop("tokenizer.chat_template"), "chat template differs"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_seen_in_the_file(files: Files, tmp_path: Path, what: str) -> None:
    damage, message = DAMAGE[what]
    file = damaged(files.file("q8"), tmp_path / "damaged.gguf", damage)
    with pytest.raises(CheckRefused, match=message):
        check_contents(file, files.reference("q8"))


# The same in files of few bits, where the logits alone would not tell.
@pytest.mark.parametrize("kind", ["f16", "q5km", "q4km"])
@pytest.mark.parametrize(
    "what",
    ["embedding rows swapped", "head rows swapped", "weight rows swapped", "layers swapped", "a weight row of zeros",
     "an embedding row of zeros", "a norm element a little off"],
)  # fmt: skip
def test_damage_is_seen_in_few_bits(files: Files, tmp_path: Path, kind: Kind, what: str) -> None:
    file = damaged(files.file(kind), tmp_path / "damaged.gguf", DAMAGE[what][0])
    with pytest.raises(CheckRefused, match=r"differs from the checkpoint|is not that of its conversion"):
        check_contents(file, files.reference(kind))


# What a converter could get wrong: there is no other file to hold it against.
CONVERTED_WRONG: dict[str, tuple[Damage, str]] = {
    **{
        what: DAMAGE[what]
        for what in (
            "tool markers swapped", "rope's base 5 % off", "another eps", "a short context", "a norm element of zero",
            "the end of a turn is a normal token", "padding is the end", "no base of rope", "a merge lost",
        )
    },
    "layers swapped": (swap_tensors(UP, "blk.1.ffn_up.weight"), "does not compute what Tiny computes"),
    "another pre-tokenizer": (change("tokenizer.ggml.pre", "default"), "tokenises .* differently"),
    "begins texts": (DAMAGE["begins texts"][0], "adds the bos token to texts"),
    "stops at a word": (
        lambda contents: contents.add("tokenizer.ggml.eot_token_id", 300, "UINT32"),
        r"stops at token 300 \(.*\), but the checkpoint does not",
    ),
    "stops at the start of a turn": (
        lambda contents: contents.add("tokenizer.ggml.eom_token_id", id_of("<|im_start|>")(contents), "UINT32"),
        r"stops at token \d+ \('<\|im_start\|>'\), but",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CONVERTED_WRONG)
def test_a_wrong_conversion_is_seen(files: Files, tmp_path: Path, what: str) -> None:
    damage, message = CONVERTED_WRONG[what]
    file = damaged(files.file("conversion"), tmp_path / "damaged.gguf", damage)
    with pytest.raises(CheckRefused, match=message):
        files.examine("conversion", file)


def test_a_truncated_file(files: Files, tmp_path: Path) -> None:
    whole = files.file("q4km").read_bytes()
    for length in (0, 3, 1000, len(whole) // 2, len(whole) - 1):
        (tmp_path / "short.gguf").write_bytes(whole[:length])
        with pytest.raises(CheckRefused, match=r"short\.gguf is damaged|differs"):
            check_contents(tmp_path / "short.gguf", files.reference("q4km"))


def test_any_changed_byte_of_the_metadata(files: Files, tmp_path: Path) -> None:
    """All but the padding behind it, the one part of a file that says nothing."""
    whole, file = files.file("q8").read_bytes(), tmp_path / "flipped.gguf"
    end = whole.index(b"output_norm.weight")
    reference = files.reference("q8")
    for position in random.Random(0).sample(range(end), int(os.environ.get("FLIPPED_BYTES", "40"))):
        changed = bytearray(whole)
        changed[position] ^= 0x11
        file.write_bytes(changed)
        try:
            check_contents(file, reference)
        except CheckRefused:
            continue
        pytest.fail(f"byte {position} was changed unseen: {whole[position - 20 : position + 20]!r}")
