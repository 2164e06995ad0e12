"""Overrides in their three forms."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentforge.errors import UserError
from agentforge.recipe.overrides import apply_override, parse_override, parse_overrides


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["a.b=1"], ["a.b=1"]),
        (["--train.args.learning-rate", "1e-4"], ["train.args.learning_rate=1e-4"]),
        (["--train.args.learning-rate=1e-4", "--seed", "-1"], ["train.args.learning_rate=1e-4", "seed=-1"]),
        (["--description", "a=b"], ["description=a=b"]),
        (["--description=a=b", "name=c=d"], ["description=a=b", "name=c=d"]),
    ],
)
def test_three_forms(argv: list[str], expected: list[str]) -> None:
    assert parse_overrides(argv) == expected


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--seed"], "'--seed' has no value"),
        (["--seed", "--name", "x"], "'--seed' has no value"),
        (["--profil", "tiny"], "did you mean '--profile'?"),
        (["--trian.args.x", "1"], "did you mean '--train.args.x'?"),
        (["word"], "'word' is not understood"),
        (["=3"], "'=3' is not understood"),
        (["-x"], "there is no option -x"),
    ],
)
def test_what_is_none_of_them_is_refused(argv: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says.replace("?", r"\?")):
        parse_overrides(argv, ["--profile", "--replace"])


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])))
def test_everything_after_the_first_equals_sign_is_the_value(value: str) -> None:
    assert parse_overrides([f"description={value}"]) == [f"description={value}"]
    assert parse_overrides([f"--description={value}"]) == [f"description={value}"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("k=1e-4", 1e-4),
        ("k=true", True),
        ("k=no", "no"),
        ("k=", None),
        ("k=[1, 2]", [1, 2]),
        ("k=a: b: c", "a: b: c"),
        ("k=2.0.0", "2.0.0"),
    ],
)
def test_values_are_read_as_yaml(text: str, value: object) -> None:
    assert parse_override(text) == ("k", value)


def test_a_broken_list_is_no_text() -> None:
    with pytest.raises(UserError, match="override k, line 1: this is not YAML"):
        parse_override("k=[1, 2")


def test_lists_are_indexed_and_missing_sections_made() -> None:
    raw = {"data": {"mix": [{"dataset": "a"}, {"dataset": "b"}]}, "train": {"lora": None}}
    apply_override(raw, "data.mix.1.weight", 2.0)
    apply_override(raw, "train.lora.r", 8)
    apply_override(raw, "budget.max_cost", 3.0)
    assert raw == {
        "data": {"mix": [{"dataset": "a"}, {"dataset": "b", "weight": 2.0}]},
        "train": {"lora": {"r": 8}},
        "budget": {"max_cost": 3.0},
    }


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("data.mix.2.weight", "index from 0 to 1"),
        ("data.mix.one.weight", "index from 0 to 1"),
        ("name.x", "'name' is a value"),
        ("extends", "cannot be overridden"),
        ("profiles.tiny.seed", "cannot be overridden"),
    ],
)
def test_keys_that_lead_nowhere(key: str, says: str) -> None:
    raw = {"name": "a", "data": {"mix": [{}, {}]}}
    with pytest.raises(UserError, match=says):
        apply_override(raw, key, 1)
