"""The recipes are the same whatever order a directory lists its files in."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentforge.environments.textcraft.recipes import load_recipes


def test_the_order_of_the_directory_changes_neither_recipes_nor_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coloured bed is made in two ways, in the groups `bed` and `dyed bed`: the last one read was its kind."""
    iterdir = Path.iterdir
    books = []
    for reverse in (False, True):
        monkeypatch.setattr(Path, "iterdir", lambda path, reverse=reverse: iter(sorted(iterdir(path), reverse=reverse)))
        books.append(load_recipes.__wrapped__())
    assert books[0].recipes == books[1].recipes
    assert books[0].members == books[1].members and "red bed" in books[0].members["dyed bed"]
