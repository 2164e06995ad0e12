"""`launch`: rent a machine for a recipe, or queue it on a cluster, once its price is known and agreed to."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentforge.atomic_files import write_text
from agentforge.errors import MachineRefused
from agentforge.export.deploy import task_of
from agentforge.planning.cost import Range
from agentforge.planning.pipeline_plan import check_pipeline_budget, is_pipeline, make_pipeline_plan
from agentforge.planning.plan import check_budget, make_plan
from agentforge.recipe.hardware import load_hardware
from agentforge.recipe.loading import load_recipe
from agentforge.recipe.schema import Recipe

# Apart from agentforge: it pins older versions of click and uvicorn.
INSTALL = "pipx install 'skypilot[all]>=0.14,<0.15' (it wants an environment of its own), then `sky check`"


@dataclass(frozen=True)
class Launch:
    """A task that is ready to go.

    Attributes:
        text: of the task's file.
        file: where it is written when it goes.
        command: that starts it.
        price: what is known of hours and dollars, as a sentence.
    """

    text: str
    file: Path
    command: list[str]
    price: str


def prepare_launch(
    name: str,
    overrides: Sequence[str] = (),
    profile: str | None = None,
    *,
    spot: bool = True,
    slurm: bool = False,
) -> Launch:
    """Render a recipe's task and estimate its price.

    Args:
        name: the recipe.
        overrides: of the recipe; they stand in the task's commands, too.
        profile: of the recipe, likewise.
        spot: rent machines that may be taken away; of no meaning on Slurm.
        slurm: a job for `sbatch` instead of a task for SkyPilot.

    Raises:
        UserError: the recipe is wrong, cannot begin on an empty machine, or SkyPilot rents no such machine.
        CheckRefused: it will probably cost more than its budget.
    """
    recipe = load_recipe(name, overrides, profile)
    file = Path(recipe.output_dir) / f"{recipe.full_name}-launch.{'sh' if slurm else 'yaml'}"
    text = task_of(name, str(file), overrides, profile, spot=spot, slurm=slurm)
    # The name of the job, so that a second launch while the first runs is seen in `sky jobs queue`.
    sky = ["sky", "jobs", "launch", str(file), "--secret", "HF_TOKEN", "--yes", "--detach-run"]
    return Launch(
        text,
        file,
        ["sbatch", str(file)] if slurm else sky,
        _price(recipe, name, overrides, profile, spot and not slurm),
    )


def start(launch: Launch, run: Callable[..., subprocess.CompletedProcess[bytes]] = subprocess.run) -> None:
    """Write the task's file and hand it to SkyPilot or Slurm.

    Raises:
        MachineRefused: they are not installed, or refuse; they have said why.
    """
    if shutil.which(launch.command[0]) is None:
        raise MachineRefused(
            "sbatch is not here; run this on a login node of your cluster, or give --dry-run"
            if launch.command[0] == "sbatch"
            else f"SkyPilot is not installed; {INSTALL}; or give --dry-run to see the task"
        )
    launch.file.parent.mkdir(parents=True, exist_ok=True)
    write_text(launch.file, launch.text)
    if code := run(launch.command).returncode:
        raise MachineRefused(f"`{' '.join(launch.command[:3])}` ended with exit code {code}; its message is above")


def _price(recipe: Recipe, name: str, overrides: Sequence[str], profile: str | None, spot: bool) -> str:
    if is_pipeline(recipe):
        system = make_pipeline_plan(recipe, name, overrides, profile)
        check_pipeline_budget(system)
        hours, dollars = system.hours, system.dollars
    else:
        plan = make_plan(recipe)
        check_budget(plan)
        hours, dollars = plan.hours, plan.dollars
    hardware = load_hardware(recipe.hardware)
    unknown = "; more, if rows are not counted yet" if not hours.mid else ""
    terms = "; spot machines cost less an hour, and more hours" if spot and hardware.dollars_per_hour else ""
    return f"{recipe.full_name} on {hardware}: {_range(hours)} hours, ${_range(dollars)}{terms}{unknown}"


def _range(value: Range) -> str:
    digits = 0 if value.high >= 10 else 2
    return f"{value.mid:,.{digits}f} ({value.low:,.{digits}f} to {value.high:,.{digits}f})"
