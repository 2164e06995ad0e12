"""Rewrites a GGUF with something wrong in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Entry = tuple[Any, Any, Any]  # value, type, type of a list's elements


class Contents:
    """A GGUF in memory, to be changed and written again.

    Attributes:
        entries: metadata.
        tensors: name to raw data (rows of bytes if quantised) and type.
    """

    def __init__(self, file: Path) -> None:
        from gguf import GGUFReader, GGUFValueType

        reader = GGUFReader(file)
        self.entries: dict[str, Entry] = {}
        for name, field in reader.fields.items():
            if not name.startswith("GGUF."):
                inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
                self.entries[name] = (field.contents(), field.types[0], inner)
        self.tensors = {tensor.name: (np.array(tensor.data), tensor.tensor_type) for tensor in reader.tensors}

    def set(self, name: str, value: Any) -> None:
        """Give an entry that exists another value of its type."""
        _, kind, inner = self.entries[name]
        self.entries[name] = (value, kind, inner)

    def add(self, name: str, value: Any, kind: str) -> None:
        """Add an entry of a type named as in GGUFValueType."""
        from gguf import GGUFValueType

        self.entries[name] = (value, GGUFValueType[kind], None)

    def swap(self, name: str, left: int, right: int) -> None:
        """Exchange two elements of a list."""
        value = list(self.entries[name][0])
        value[left], value[right] = value[right], value[left]
        self.set(name, value)

    def put(self, name: str, index: int, element: Any) -> None:
        """Replace an element of a list."""
        value = list(self.entries[name][0])
        value[index] = element
        self.set(name, value)

    def data(self, name: str) -> np.ndarray:
        """The data of a tensor, to be changed in place."""
        return self.tensors[name][0]

    def write(self, file: Path) -> None:
        """Write it all."""
        from gguf import GGUFWriter

        writer = GGUFWriter(file, self.entries["general.architecture"][0])
        for name, (value, kind, inner) in self.entries.items():
            if name != "general.architecture":  # the writer has written it
                writer.add_key_value(name, value, kind, inner)
        for name, (data, kind) in self.tensors.items():
            writer.add_tensor(name, data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


Damage = Callable[[Contents], object]


def damaged(source: Path, target: Path, damage: Damage) -> Path:
    """Write ``source`` with ``damage`` to ``target``."""
    contents = Contents(source)
    damage(contents)
    contents.write(target)
    return target
