"""Constants have a range and a source, and the page shows them."""

from pathlib import Path

import pytest

from agentforge.planning.constants import ALL, Constant, constants_table, with_table

PAGE = Path(__file__).parents[2] / "docs" / "planning.md"


@pytest.mark.parametrize("constant", ALL, ids=lambda constant: constant.what[:30])
def test_each_has_a_range_and_a_source(constant: Constant) -> None:
    low, mid, high = constant.range.low, constant.range.mid, constant.range.high
    assert 0 < low <= mid <= high or low >= mid >= high > 0
    assert constant.source


def test_the_page_has_the_table() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_table(page) == page, "run: python -m agentforge.planning.constants docs/planning.md"
    assert "guess" in constants_table()
