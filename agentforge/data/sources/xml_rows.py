"""Rows of an XML file: every element that holds nothing but simple fields is one row (ASDiv's ``<Problem>``)."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from agentforge.errors import CheckRefused, first_line


def read_xml(file: BufferedIOBase, path: Path, rows_before: int) -> Iterator[dict[str, Any]]:
    """Yield ``{attribute or child: text}`` for each element whose children have none themselves, in constant memory.

    An attribute is called as in the file, and a child that repeats keeps its last text.

    Args:
        file: its bytes. External entities are not fetched, and expat itself stops entities that swell up.
        path: for the message.
        rows_before: rows that were read, for the message.

    Raises:
        CheckRefused: the file is cut off or no XML.
    """
    depth_of_leaf: list[bool] = []  # for each open element, whether all its children so far are leaves
    children: list[int] = []
    count = rows_before
    try:
        for event, element in ElementTree.iterparse(file, events=("start", "end")):
            if event == "start":
                depth_of_leaf.append(True)
                children.append(0)
                continue
            simple, own = depth_of_leaf.pop(), children.pop()
            if children:
                children[-1] += 1
                depth_of_leaf[-1] = depth_of_leaf[-1] and own == 0
            if own and simple:
                count += 1
                yield {**element.attrib, **{child.tag: (child.text or "").strip() for child in element}}
            if own:
                element.clear()
    except ElementTree.ParseError as error:
        raise CheckRefused(
            f"{path} cannot be read as XML after {count} rows ({first_line(error)}); download or make it again"
        ) from None
