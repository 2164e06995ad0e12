"""Safetensors checkpoints, read and written one tensor at a time, so that a 32B model needs no more memory than its
largest tensor. Format: https://huggingface.co/docs/safetensors (8 bytes of header length, JSON header, tensor data).

The library reads; it has no way to write a file tensor by tensor, so `write_shard` does.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from agentforge.errors import CheckRefused, UserError, first_line
from agentforge.file_hashes import known
from agentforge.recipe.hardware import available_cores

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorInfo:
    """What a tensor is before it is read: its file, safetensors' name of its dtype, its shape, its bytes."""

    file: Path
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes in the file."""
        itemsize = DTYPES[self.dtype].itemsize if self.dtype in DTYPES else 1
        return torch.Size(self.shape).numel() * itemsize


def checkpoint_directory(path: str | Path, revision: str | None = None) -> Path:
    """Return the local directory of a checkpoint given as a directory or a Hub id (downloaded, or from the cache).

    Raises:
        UserError: it is neither a directory nor a repository that can be reached.
    """
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = ["*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer.model", "*.py"]
    try:
        return Path(snapshot_download(str(path), revision=revision, allow_patterns=wanted))
    except HFValidationError:
        raise UserError(f"model '{path}': there is no such directory, and it is not a Hub id (ORG/NAME)") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = first_line(error)
        raise UserError(
            f"model '{path}' is not a directory here and cannot be downloaded from the Hub ({reason})"
        ) from None


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Return the tensors of one safetensors file.

    Raises:
        CheckRefused: the file is shorter or longer than its header says, or has no header.
    """
    try:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
            return {name: TensorInfo(path, s.get_dtype(), tuple(s.get_shape())) for name, s in slices.items()}
    except SafetensorError as error:
        raise CheckRefused(f"{path} is damaged or truncated ({first_line(error)}); download it again") from None


class Checkpoint:
    """The weights of a model directory; reading one tensor touches only that tensor's bytes.

    Raises:
        UserError: the directory has no safetensors weights.
        CheckRefused: a shard is missing, truncated, or holds other tensors than the index says.
    """

    def __init__(self, directory: Path, single_file: str = SINGLE_FILE) -> None:
        self.directory = directory
        index = directory / INDEX_FILE
        if index.is_file():
            self.weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        elif (directory / single_file).is_file():
            self.weight_map = dict.fromkeys(read_header(directory / single_file), single_file)
        else:
            raise UserError(f"{directory} has no {single_file}: agentforge reads safetensors only, never pickles")
        self.tensors = {name: info for file in self.files for name, info in self._shard(file).items()}

    @property
    def files(self) -> list[str]:
        """Shard names in order."""
        return sorted(set(self.weight_map.values()))

    def _shard(self, file: str) -> dict[str, TensorInfo]:
        if not (path := self.directory / file).is_file():
            raise CheckRefused(f"{self.directory} lacks the shard {file} that its index names; download it again")
        header = read_header(path)
        expected = {name for name, home in self.weight_map.items() if home == file}
        if lacking := sorted(expected - set(header)):
            raise CheckRefused(
                f"{path} lacks {lacking[0]}, which the index says it holds: are the shards from different models?"
            )
        # The index decides: a tensor that it puts into another file, or into none, is not read from here.
        return {name: header[name] for name in expected}

    @cached_property
    def config(self) -> dict[str, Any]:
        """The directory's config.json."""
        path = self.directory / "config.json"
        if not path.is_file():
            raise UserError(f"{self.directory} has no config.json: it is not a transformers checkpoint")
        loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return loaded

    @property
    def parameters(self) -> int:
        """Number of stored weights."""
        return sum(torch.Size(info.shape).numel() for info in self.tensors.values())

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor in its stored dtype."""
        info = self.tensors[name]
        if info.dtype not in DTYPES:
            raise CheckRefused(
                f"{info.file}: {name} is stored as {info.dtype}, a quantised type; use the original checkpoint"
            )
        with safe_open(info.file, "pt") as file:
            # A copy: the tensor itself is a view of the mapped file, whose pages would stay as long as it lives.
            tensor: torch.Tensor = file.get_tensor(name).clone()
        return tensor

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of every tensor's bytes; a file is read once per machine (`file_hashes.known`)."""
        with ThreadPoolExecutor(max_workers=available_cores()) as pool:
            found = pool.map(lambda file: known(self.directory / file, "tensors", _tensor_digests), self.files)
            by_file = dict(zip(self.files, found, strict=True))
        return {name: by_file[file][name] for name, file in self.weight_map.items()}


def _tensor_digests(path: Path) -> dict[str, str]:
    found = {}
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118  it is no mapping
            # A view of the mapped file: nothing is copied, and its pages go with it.
            data = file.get_tensor(name).flatten().view(torch.uint8).numpy()
            found[name] = hashlib.sha256(data.data).hexdigest()
    return found


class Overflow(CheckRefused):
    """A weight that is too large for the dtype that the recipe publishes it in, and not for bfloat16."""


def in_dtype(name: str, weight: torch.Tensor, dtype: torch.dtype, key: str) -> torch.Tensor:
    """Return a weight in the dtype that it is published in.

    Args:
        name: of the tensor.
        weight: any shape; integers keep their dtype's values.
        dtype: that of the file.
        key: of the recipe, which decides it.

    Raises:
        CheckRefused: a value is NaN or infinite.
        Overflow: it is so only in ``dtype``: float16 ends at 65,504.
    """
    made = weight.to(dtype)
    if not dtype.is_floating_point or bool(torch.isfinite(made).all()):
        return made
    if not bool(torch.isfinite(weight).all()):
        raise CheckRefused(f"{name} has weights that are NaN or infinite; the model that they come from is unusable")
    kind = str(dtype).removeprefix("torch.")
    raise Overflow(
        f"{name} has weights up to {float(weight.abs().max()):,.0f}, and {kind} ends at {torch.finfo(dtype).max:,.0f}; "
        f"set {key}=bfloat16"
    )


def write_shard(
    path: Path, layout: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], tensor: Callable[[str], torch.Tensor]
) -> int:
    """Write a safetensors file tensor by tensor.

    Args:
        path: the file.
        layout: name to dtype and shape of every tensor in the file.
        tensor: gives the tensor of a name when its turn comes; it must agree with the layout.

    Returns:
        bytes of tensor data.
    """
    # widest first keeps every tensor aligned
    names = sorted(layout, key=lambda name: (-layout[name][0].itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in names:
        dtype, shape = layout[name]
        size = torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    encoded = json.dumps(header, separators=(",", ":")).encode()
    # Spaces fill the header, so that the first tensor starts at a multiple of eight bytes.
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)))
        file.write(encoded)
        for name in names:
            value = tensor(name).contiguous()
            if (value.dtype, tuple(value.shape)) != layout[name]:
                raise ValueError(f"{name} is {value.dtype} {tuple(value.shape)}, the layout says {layout[name]}")
            # As bytes, because numpy knows no bfloat16.
            file.write(value.flatten().view(torch.uint8).numpy().data)
        file.flush()
        # The data must reach the disk before the rename that publishes the directory does.
        os.fsync(file.fileno())
    return offset
