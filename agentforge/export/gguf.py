"""`gguf`: one file per quantisation, each loaded and compared with the checkpoint before it is published."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agentforge.artifacts import is_current, read_manifest, stage_directory, write_json
from agentforge.errors import CheckRefused
from agentforge.export.agreement import (
    comparison_place,
    comparison_rows,
    load_model,
    logits_of,
    sweep_rows,
)
from agentforge.export.check_gguf import Reference, check_file, refuse_conversion, refuse_disagreement, vocabulary_size
from agentforge.export.convert import (
    BYTES_PER_WEIGHT,
    FILE_TYPES,
    UNQUANTIZED_FILE_TYPES,
    conversion_view,
    convert,
    known_difference,
    plan_conversion,
    quantize,
    tensor_types,
)
from agentforge.export.gguf_metadata import general_fields, gguf_metadata
from agentforge.export.gguf_pieces import Pieces, read_pieces
from agentforge.export.gguf_vocabulary import described_for_sentencepiece
from agentforge.export.llama_cpp import converter_source, require_library
from agentforge.export.serving_files import write_deployment
from agentforge.models.checkpoint import DTYPES, Checkpoint
from agentforge.models.checkpoint_files import require_space
from agentforge.recipe.schema import Quantization, Recipe

log = logging.getLogger(__name__)

ROWS = "rows.json"


def gguf(recipe: Recipe, replace: bool = False) -> list[Path]:
    """Convert the merged (or wholly trained) model and make every quantisation of `export.gguf`.

    Returns:
        the artefacts ``-f16``, ``-q8``, ...; each holds the file, its Modelfile and the commands that serve it.

    Raises:
        UserError: there is no model yet, or llama.cpp is not set up.
        CheckRefused: llama.cpp does not know the architecture or the tokenizer, the disk is too small, or a quantised
            file disagrees with the checkpoint by more than `export.max_kl` and `export.min_top1` allow.
    """
    # How a GGUF is checked. The checkpoint is converted once, into a hidden GGUF of its own precision, and its logits
    # on some 512 held-out tokens are kept beside it. Each quantisation is made from that file and loaded by llama.cpp
    # in a process of its own. It must read a battery of difficult texts as the same tokens, stop at the same token and
    # carry the same chat template; then its logits on the same tokens are compared, as KL and as agreement on the
    # likeliest token. Only a file that passes is renamed into place.
    wanted = list(dict.fromkeys(recipe.export.gguf))
    checkpoint = recipe.artifact("merged") if recipe.train.lora is not None else recipe.trained
    read_manifest(checkpoint)
    if all(is_current(recipe.artifact(q), **_identity(recipe, q, checkpoint)) for q in wanted):
        return [recipe.artifact(q) for q in wanted]
    # Only now: a recipe whose files are up to date needs no llama.cpp.
    require_library()
    # An unknown architecture is refused at once, not after 32B parameters were converted.
    plan = plan_conversion(Checkpoint(checkpoint).config, converter_source())
    log.debug("conversion: %s", plan)
    original = Unquantized(recipe, checkpoint)
    try:
        return [_make(recipe, quantization, original, replace) for quantization in wanted]
    finally:
        # It is as large as the checkpoint. Only a killed run leaves it behind, for the next run to use.
        original.remove()


def _identity(recipe: Recipe, quantization: Quantization, checkpoint: Path) -> dict[str, Any]:
    """What a quantisation is made from; the same for the up-to-date check and the making."""
    settings = {
        "quantization": quantization,
        "max_kl": recipe.export.max_kl.get(quantization),
        "min_top1": recipe.export.min_top1.get(quantization),
        "max_difference": recipe.export.max_difference.get(quantization),
        "metadata": gguf_metadata(recipe),
        "data": recipe.data.model_dump(include={"system", "tools", "max_length"}),
    }
    return {"stage": "gguf", "recipe": settings, "inputs": {"model": checkpoint}}


def _make(recipe: Recipe, quantization: Quantization, original: Unquantized, replace: bool) -> Path:
    with stage_directory(
        recipe.artifact(quantization), **_identity(recipe, quantization, original.checkpoint), replace=replace
    ) as work:
        if not work.done:
            size = int(original.weights.parameters * BYTES_PER_WEIGHT[quantization])
            original.make()
            require_space(work.path, size, f"{recipe.full_name}-{quantization}")
            file = work.path / f"{recipe.full_name}-{quantization}.gguf"
            log.info("quantising to %s", quantization)
            quantize(original.file, file, quantization)
            found = check_file(file, original.reference(quantization))
            refuse_disagreement(recipe, quantization, found)
            figures = (
                f"KL {found.text.kl:.2g} nats a token, same top token {found.text.top1:.1%}, "
                f"{found.coverage:.1%} of the vocabulary read, {file.stat().st_size / 1e6:,.1f} MB"
            )
            log.info("comparison of %s with its checkpoint on %d tokens: %s", quantization, found.text.tokens, figures)
            positions = original.weights.config.get("max_position_embeddings")
            write_deployment(recipe, quantization, work.path, original.tokenizer, positions)
            types = tensor_types(file)
            # Small models only: the file is sound, but larger than its name promises.
            if quantization.endswith("km") and not any(name.endswith("_K") for name in types):
                log.warning(
                    "%s: some rows are not a multiple of 256 long, so llama.cpp used %s for them",
                    file.name,
                    ", ".join(types),
                )
            work.metrics.update(found.as_dict(), tensor_types=types, bytes=file.stat().st_size)
    return work.target


@dataclass
class Unquantized:
    """The checkpoint as a GGUF of its own precision, with the logits it is measured by.

    A hidden artefact of its own, so that a killed run does not convert 32B parameters twice; removed at the end.
    """

    recipe: Recipe
    checkpoint: Path

    @property
    def directory(self) -> Path:
        """The hidden artefact."""
        return self.recipe.artifact("x").with_name(f".{self.recipe.full_name}-unquantized")

    @property
    def file(self) -> Path:
        """The GGUF."""
        return self.directory / "model.gguf"

    @cached_property
    def weights(self) -> Checkpoint:
        """The checkpoint's tensors."""
        return Checkpoint(self.checkpoint)

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its config as the converter reads it, with the text model's entries on top."""
        config = self.weights.config
        return {**config, **config.get("text_config", {}), **plan_conversion(config, converter_source()).config}

    @cached_property
    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer."""
        from transformers import AutoTokenizer

        if not (self.checkpoint / "tokenizer.json").is_file():
            raise CheckRefused(f"{self.checkpoint} has no tokenizer.json: a GGUF cannot be made or checked without it")
        return AutoTokenizer.from_pretrained(self.checkpoint, trust_remote_code=self.recipe.model.trust_remote_code)

    @cached_property
    def pieces(self) -> Pieces | None:
        """What its ``tokenizer.model`` says, if it has one."""
        return read_pieces(self.checkpoint)

    @cached_property
    def template(self) -> str | None:
        """The chat template for serving, None for a model without one."""
        from agentforge.data.chat_template import serving_template

        return serving_template(self.tokenizer) if self.tokenizer.chat_template else None

    def make(self) -> None:
        """Convert, and keep the checkpoint's logits, unless an earlier run has done both."""
        metadata = gguf_metadata(self.recipe)
        settings = {"trust_remote_code": self.recipe.model.trust_remote_code, "metadata": metadata}
        inputs: dict[str, Path | str] = {"model": self.checkpoint}
        if (data := self.recipe.artifact("data")).is_dir():
            inputs["data"] = data
        with stage_directory(self.directory, stage="convert", recipe=settings, inputs=inputs, replace=True) as work:
            if work.done:
                return
            plan = plan_conversion(self.weights.config, converter_source())
            size = sum(info.size for info in self.weights.tensors.values())
            require_space(work.path, size, f"converting {self.recipe.full_name}")
            view = work.path / "view"
            described = described_for_sentencepiece(self.tokenizer)
            conversion_view(self.checkpoint, view, plan, self.template, metadata, described)
            log.info("converting %s to GGUF", self.checkpoint)
            convert(view, work.path / self.file.name, self._dtype(), plan)
            # Links and a few rewritten JSON files, no longer needed.
            shutil.rmtree(view)
            exact = self._keep_logits(work.path)
            found = check_file(work.path / self.file.name, self.reference(directory=work.path))
            if exact:  # bfloat16 alone differs as much as a wrong graph
                refuse_conversion(self.recipe.full_name, found, known_difference(self.config))

    def _dtype(self) -> str:
        """The dtype in which no weight is lost: the widest that the checkpoint has."""
        found = {DTYPES[info.dtype] for info in self.weights.tensors.values() if info.dtype in DTYPES}
        main = {torch.float32, torch.bfloat16, torch.float16} & found
        by_config = getattr(torch, str(self.weights.config.get("dtype")), None)
        return str(by_config if by_config in main else max(main, key=lambda kind: kind.itemsize)).removeprefix("torch.")

    def _keep_logits(self, directory: Path) -> bool:
        """Write the checkpoint's logits; return whether they were computed in float32."""
        rows = {
            "text": comparison_rows(self.recipe, self.tokenizer),
            "sweep": sweep_rows(vocabulary_size(self.weights, self.config)),
        }
        every = [*rows["text"], *rows["sweep"]]
        place = comparison_place(self.weights.parameters)
        trust = self.recipe.model.trust_remote_code
        log.info("computing the logits of %s on %d tokens (%s)", self.checkpoint, sum(map(len, every)), place.device)
        for number, logits in enumerate(logits_of(lambda: load_model(self.checkpoint, place, trust), every)):
            np.save(directory / f"logits-{number:03}.npy", logits)
        write_json(directory / ROWS, rows)
        return place.exact

    def reference(self, quantization: Quantization | None = None, directory: Path | None = None) -> Reference:
        """What a GGUF of it is compared with: a quantisation, or with None the conversion, still in ``directory``."""
        directory = directory or self.directory
        rows = json.loads((directory / ROWS).read_text(encoding="utf-8"))
        file_type = FILE_TYPES[quantization] if quantization else UNQUANTIZED_FILE_TYPES[self._dtype()]
        return Reference(
            weights=self.weights,
            config=self.config,
            tokenizer=self.tokenizer,
            stops=self._stops(),
            template=self.template,
            general=general_fields(gguf_metadata(self.recipe)) | {"general.file_type": file_type},
            rows=rows["text"],
            sweep=rows["sweep"],
            logits=directory,
            conversion=self.file if quantization else None,
            pieces=self.pieces,
        )

    def _stops(self) -> list[int]:
        """Where transformers ends a generation: the tokenizer's end, and those that generation_config.json adds."""
        file = self.checkpoint / "generation_config.json"
        named = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.is_file() else None
        found = [self.tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])]
        return sorted({token for token in found if token is not None})

    def remove(self) -> None:
        """Free its disk space."""
        shutil.rmtree(self.directory, ignore_errors=True)
