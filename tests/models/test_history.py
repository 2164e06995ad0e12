"""What a checkpoint has been through, and phases that are refused another phase's checkpoint."""

from pathlib import Path

import pytest

from agentforge.artifacts import stage_directory
from agentforge.errors import CheckRefused
from agentforge.models.history import check_history, history
from agentforge.models.surgery import surgery
from agentforge.recipe.schema import Model, Recipe
from agentforge.trainers.train import train


def made(directory: Path, name: str, how: dict[str, object], base: Path | None = None) -> Path:
    """An artefact whose manifest says so, without a model in it."""
    inputs = {"base": base} if base else {}
    with stage_directory(directory / name, stage="any", recipe=how, inputs=inputs) as work:
        (work.path / "config.json").write_text('{"model_type": "qwen3"}')
    return directory / name


@pytest.fixture
def expanded(tmp_path: Path) -> Path:
    base = made(tmp_path, "base", {"train": {"method": "pretrain"}})
    grafted = made(tmp_path, "grafted", {"surgery": {"operation": "graft"}}, base)
    trained = made(tmp_path, "model", {"train": {"method": "pretrain"}}, grafted)
    return made(tmp_path, "expanded", {"surgery": {"operation": "expand"}}, trained)


def test_history_is_read_from_one_artefact_to_the_next(expanded: Path, tmp_path: Path) -> None:
    assert history(expanded) == ["pretrain", "graft", "pretrain", "expand"]
    (tmp_path / "elsewhere").mkdir()
    assert history(tmp_path / "elsewhere") == []


def test_the_end_of_the_history_decides(expanded: Path, tmp_path: Path) -> None:
    check_history(Model(path=str(expanded), history=["pretrain", "expand"]))
    check_history(Model(path=str(expanded)))
    check_history(Model(path="org/on-the-hub", history=["graft"]))
    with pytest.raises(CheckRefused, match="made by pretrain, graft, pretrain, expand; this recipe needs order"):
        check_history(Model(path=str(expanded), history=["order", "expand"]))
    with pytest.raises(CheckRefused, match="no manifest"):
        check_history(Model(path=str(tmp_path), history=["expand"]))


@pytest.mark.parametrize("stage", [train, surgery])
def test_a_stage_refuses_the_checkpoint_of_another_phase(stage: object, expanded: Path, tmp_path: Path) -> None:
    recipe = Recipe.model_validate(
        {
            "name": "Wrong",
            "output_dir": str(tmp_path / "runs"),
            "model": {"path": str(expanded), "history": ["graft"]},
            "surgery": {"operation": "expand", "width": "2"},
        }
    )
    with pytest.raises(CheckRefused, match=r"needs graft.*model\.history=\[\]"):
        stage(recipe)  # type: ignore[operator]
    assert not (tmp_path / "runs").exists()
