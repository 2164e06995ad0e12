"""The merged checkpoint, computed in float32 and written shard by shard in the base's own layout."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from agentforge.artifacts import write_json
from agentforge.errors import CheckRefused
from agentforge.export.lora_weights import Change
from agentforge.models.checkpoint import DTYPES, INDEX_FILE, Checkpoint, in_dtype, write_shard
from agentforge.models.usage import write_usage
from agentforge.systems.registry import system_of

log = logging.getLogger(__name__)


class MergedWeights:
    """A base and what adapters change in it.

    Where input embedding and output head are one tensor in the base, each is computed as the unmerged model computes
    it; if they come out different (a trained head), the merged model is written untied.

    Args:
        base: the base's weights.
        changes: base tensor name to change, from `lora_weights.combine`.
        trust_remote_code: for bases whose code is in their repository.

    Raises:
        CheckRefused: the adapter does not fit this base.
    """

    def __init__(self, base: Checkpoint, changes: dict[str, Change], trust_remote_code: bool = False) -> None:
        self.base = base
        self.changes = changes
        self.embedding, self.head, self.tied = _embedding_names(base.directory, trust_remote_code)
        self.sources = {name: name for name in base.tensors}
        # PEFT trains single rows of tied matrices together, and stores them once.
        rows = changes[self.embedding].rows if self.embedding in changes else None
        if self.tied and self.head and rows is not None and self.head not in changes:
            changes[self.head] = Change(rows=rows)
        # A tied head may not be stored. What an adapter changes in it starts from the embedding.
        if self.tied and self.head and self.head not in self.sources and self.head in changes:
            self.sources[self.head] = self.embedding
        self._check_fit()
        self._settle_tying()

    def _check_fit(self) -> None:
        # Names and shapes are checked before anything is written: a wrong adapter must not cost an hour of merging.
        system = system_of(self.base.config)
        for name, change in self.changes.items():
            if name not in self.sources:
                raise CheckRefused(
                    f"the adapter changes {name}, which {self.base.directory} does not have: it belongs to another base"
                )
            if system is not None and (refusal := system.adapter_refusal(self.base.config, name)) is not None:
                raise CheckRefused(f"the adapter changes {name} of {self.base.directory}, but {refusal}")
            old = self.base.tensors[self.sources[name]].shape
            new = change.shape(old)
            resizable = name in (self.embedding, self.head)
            shapes = [new, *(part.shape() for part in change.additions)]
            if wrong := [shape for shape in shapes if shape != new or not _fits(old, shape, resizable)]:
                raise CheckRefused(
                    f"the adapter's {name} is {wrong[0]}, but in {self.base.directory} it is {old}: "
                    "it belongs to another base"
                )

    def _settle_tying(self) -> None:
        self.untied = False
        if not (self.tied and self.head and {self.head, self.embedding} & set(self.changes)):
            return
        # Both are computed, since an adapter may have changed one of them, or both alike. Only where they differ does
        # the checkpoint need a head of its own.
        self.sources.setdefault(self.head, self.embedding)
        embedding, head = self.tensor(self.embedding).float(), self.tensor(self.head).float()
        self.untied = embedding.shape != head.shape or not torch.allclose(embedding, head, rtol=1e-6, atol=1e-7)
        if self.untied:
            log.info(
                "the adapter trains %s separately from %s, so the merged model is untied", self.head, self.embedding
            )
        elif self.head not in self.base.tensors:
            del self.sources[self.head]

    @property
    def vocabulary(self) -> int:
        """Rows of the input embedding."""
        return self._shape(self.embedding)[0]

    def _shape(self, name: str) -> tuple[int, ...]:
        old = self.base.tensors[self.sources[name]].shape
        return self.changes[name].shape(old) if name in self.changes else old

    def tensor(self, name: str) -> torch.Tensor:
        """Return a merged tensor: float32 if an adapter changes it, as stored if not."""
        stored = self.base.read(self.sources[name])
        return self.changes[name].apply(stored) if name in self.changes else stored

    def layout(self, dtype: torch.dtype) -> dict[str, dict[str, tuple[torch.dtype, tuple[int, ...]]]]:
        """Return file to tensor to (dtype, shape) of the merged checkpoint, sharded as the base is."""
        main = self._main_dtype()
        files: dict[str, dict[str, tuple[torch.dtype, tuple[int, ...]]]] = {file: {} for file in self.base.files}
        for name, source in self.sources.items():
            stored = DTYPES.get(self.base.tensors[source].dtype, torch.uint8)
            # what the base keeps in another dtype than its weights (float32 routers, state-space A_log) stays so
            target = dtype if stored == main else stored
            files[self.base.weight_map[source]][name] = (target, self._shape(name))
        return files

    def _main_dtype(self) -> torch.dtype:
        sizes: dict[torch.dtype, int] = {}
        for info in self.base.tensors.values():
            if (stored := DTYPES.get(info.dtype)) is not None and stored.is_floating_point:
                sizes[stored] = sizes.get(stored, 0) + torch.Size(info.shape).numel()
        if not sizes:
            raise CheckRefused(
                f"{self.base.directory} has no floating-point weights; merge into the original checkpoint"
            )
        return max(sizes, key=lambda kind: sizes[kind])

    def size(self, dtype: torch.dtype) -> int:
        """Bytes of the weights in ``dtype``."""
        entries = (entry for file in self.layout(dtype).values() for entry in file.values())
        return sum(kind.itemsize * torch.Size(shape).numel() for kind, shape in entries)

    def write(self, directory: Path, dtype: torch.dtype) -> None:
        """Write weights, index and config.json into ``directory``.

        Raises:
            CheckRefused: a weight is NaN or infinite, or would be so in ``dtype``.
        """
        directory.mkdir(parents=True, exist_ok=True)
        total = 0
        layout = self.layout(dtype)
        # How a sharded merge streams. Every tensor stays in the file where the base has it. `write_shard` writes the
        # header first, for which dtypes and shapes are enough, and then asks for one tensor after another. Each is read
        # from the base, changed in float32, rounded and written, so that only one tensor is in memory at a time, not a
        # shard or the model.
        for number, (file, tensors) in enumerate(layout.items(), 1):
            log.info("merging shard %d of %d: %s", number, len(layout), file)

            # Bound as a default, so that the function keeps the shard that it was made for.
            def rounded(name: str, tensors: dict[str, tuple[torch.dtype, tuple[int, ...]]] = tensors) -> torch.Tensor:
                return in_dtype(name, self.tensor(name), tensors[name][0], "export.dtype")

            total += write_shard(directory / file, tensors, rounded)
        if (self.base.directory / INDEX_FILE).is_file():
            weight_map = {name: file for file, tensors in layout.items() for name in tensors}
            write_json(directory / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": weight_map})
        self._write_config(directory, dtype)

    def _write_config(self, directory: Path, dtype: torch.dtype) -> None:
        config = dict(self.base.config)
        config.pop("torch_dtype", None)  # the older name of dtype
        config["dtype"] = str(dtype).removeprefix("torch.")
        if self.untied:
            config["tie_word_embeddings"] = False
        if self.embedding in self.changes:
            config["vocab_size"] = self.vocabulary
        write_json(directory / "config.json", config)
        write_usage(directory, config)


def _fits(old: tuple[int, ...], new: tuple[int, ...], resizable: bool) -> bool:
    return old == new or (resizable and len(old) == len(new) and old[1:] == new[1:])


def _embedding_names(directory: Path, trust_remote_code: bool) -> tuple[str, str | None, bool]:
    """Return the names of input embedding and output head, and whether the base ties them."""
    from transformers import AutoModelForCausalLM

    from agentforge.models.auto import load_config

    config = load_config(directory, trust_remote_code=trust_remote_code)
    # The names differ between architectures; a model without weights knows them.
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    names = {id(module): name for name, module in model.named_modules()}
    head = model.get_output_embeddings()
    embedding = f"{names[id(model.get_input_embeddings())]}.weight"
    tied = bool(getattr(config.get_text_config(), "tie_word_embeddings", False))
    return embedding, f"{names[id(head)]}.weight" if head is not None else None, tied
