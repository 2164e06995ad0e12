"""What trackers have stored, read back from their files; and where they store it in a test."""

from __future__ import annotations

import importlib.util
import json
import sqlite3
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

AXIS = "train/global_step"
"""What W&B and trackio show beside the metrics: their x axis."""
TRACKERS = ("tensorboard", "trackio", "wandb")


def installed() -> list[str]:
    """Return those of the three trackers that are here."""
    return [name for name in TRACKERS if importlib.util.find_spec(name) is not None]


def keep_below(place: Path, patch: pytest.MonkeyPatch) -> None:
    """Let trackio and W&B write below a directory, and nothing leave the machine."""
    patch.setenv("HF_HUB_OFFLINE", "1")
    for name, value in {"MODE": "offline", "DIR": str(place), "SILENT": "true", "X_DISABLE_STATS": "true"}.items():
        patch.setenv(f"WANDB_{name}", value)
    if (wandb := sys.modules.get("wandb")) is not None:
        wandb.teardown()  # or it goes on with the directory of an earlier test
    if importlib.util.find_spec("trackio") is not None:
        import trackio  # noqa: F401
    # trackio reads TRACKIO_DIR when it is imported, and something may have imported it before
    for module in [module for name, module in sys.modules.items() if name.startswith("trackio")]:
        if hasattr(module, "TRACKIO_DIR"):
            patch.setattr(module, "TRACKIO_DIR", place / "trackio")


def tensorboard_scalars(place: Path) -> dict[str, dict[int, float]]:
    """Return the values of each tag by step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(place))
    events.Reload()
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def tensorboard_texts(place: Path) -> dict[str, str]:
    """Return the texts of each tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(place))
    events.Reload()
    tags = events.Tags()["tensors"]
    return {tag: events.Tensors(tag)[-1].tensor_proto.string_val[0].decode() for tag in tags}


def trackio_lines(place: Path, project: str, run: str) -> list[dict[str, Any]]:
    """Return the logged lines of all runs of a name."""
    return [line for lines in trackio_runs(place, project, run).values() for line in lines]


def trackio_runs(place: Path, project: str, run: str) -> dict[str, list[dict[str, Any]]]:
    """Return the lines of each run of a name, by id, in the order in which they began."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, run_id, metrics in _trackio_rows(place, project, "run_name, run_id, metrics FROM metrics ORDER BY id"):
        assert name == run
        found.setdefault(run_id, []).append(json.loads(metrics))
    return found


def trackio_config(place: Path, project: str) -> dict[str, Any]:
    """Return the newest run's config."""
    rows = _trackio_rows(place, project, "config FROM configs ORDER BY id")
    config: dict[str, Any] = json.loads(rows[-1][0])
    return config


def _trackio_rows(place: Path, project: str, what: str) -> list[Any]:
    (database,) = (place / "trackio").glob("*.db")
    assert database.stem.startswith(project)
    with sqlite3.connect(database) as connection:
        return connection.execute(f"SELECT {what}").fetchall()


def wandb_lines(place: Path) -> list[dict[str, Any]]:
    """Return the logged lines of all offline runs."""
    return [line for record in wandb_records(place) if (line := _history(record))]


def _history(record: Any) -> dict[str, Any]:
    items = record.history.item
    line = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
    return {name: value for name, value in line.items() if not name.startswith("_")}


def wandb_config(place: Path) -> dict[str, Any]:
    """Return the config as the records add it up."""
    updates = [
        update for record in wandb_records(place) for update in [*record.run.config.update, *record.config.update]
    ]
    return {update.key: json.loads(update.value_json) for update in updates if update.key}


def wandb_runs(place: Path) -> list[Any]:
    """Return the description that each process gave of its run."""
    files = sorted(place.glob("wandb/offline-run-*/*.wandb"))
    return [next(r.run for r in _records(file) if r.WhichOneof("record_type") == "run") for file in files]


def wandb_records(place: Path) -> list[Any]:
    """Return the records of the offline runs, as they began: LevelDB's log format behind seven bytes of W&B's own."""
    return [record for file in sorted(place.glob("wandb/offline-run-*/*.wandb")) for record in _records(file)]


def _records(file: Path) -> list[Any]:
    from wandb.proto import wandb_internal_pb2

    data, at, pieces, found = file.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        # A block has 32 KiB; a header of checksum, length and type does not cross into the next.
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        pieces += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            record = wandb_internal_pb2.Record.FromString(pieces)
            pieces = b""
            found.append(record)
    return found


def names_of(lines: list[dict[str, Any]]) -> set[str]:
    """Return all names of some lines."""
    return {name for line in lines for name in line}
