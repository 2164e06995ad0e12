"""The one place where the weights of a model are opened, whoever needs them. Only safetensors: a pickle runs code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel
from transformers.utils.hub import cached_file

from agentforge.errors import CheckRefused, UserError, first_line, seen_from
from agentforge.manifest import check_bytes
from agentforge.models.auto import model_class
from agentforge.models.base_directory import refuse_other_directory


def open_model(
    path: str | Path,
    *,
    dtype: torch.dtype | str,
    revision: str | None = None,
    trust_remote_code: bool = False,
    **options: Any,
) -> PreTrainedModel:
    """Return the causal language model of a checkpoint.

    Args:
        path: a directory or a Hub id.
        dtype: of the weights in memory; ``auto``: as they are stored.
        revision: commit or tag of a Hub id.
        trust_remote_code: run the repository's own code.
        options: of `from_pretrained`: attention, quantisation, placement.

    Raises:
        UserError: nothing is there, or the Hub does not answer.
        CheckRefused: a shard is damaged or missing, other bytes than the artefact's manifest or the Hub says, or
            weights and config do not belong together.
    """
    place, revision = str(path), revision or "main"
    check_place(place)
    if Path(place).is_dir():
        check_bytes(Path(place))
    try:
        opened: Any = model_class(place, revision=revision).from_pretrained(
            place,
            revision=revision,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **options,
        )
    except SafetensorError as error:
        raise CheckRefused(
            f"a weight file of {place} is damaged ({first_line(error)}); download or make it again"
        ) from error
    except OSError as error:
        raise _unreadable(place, error) from error
    except (ImportError, ValueError) as error:
        raise UserError(f"the model {place} cannot be loaded here: {first_line(error)}") from error
    if not Path(place).is_dir():
        check_bytes(_snapshot(place, revision))
    model, report = opened
    # transformers draws missing weights at random and drops those that are left over, and only warns of both
    if problems := sorted(map(str, {*report["missing_keys"], *report["unexpected_keys"]})):
        raise CheckRefused(f"{place}: {len(problems)} weights do not fit its config; the first is {problems[0]}")
    loaded: PreTrainedModel = model
    return loaded


def check_place(path: str) -> None:
    """Refuse what cannot be opened as a model.

    Raises:
        UserError: it is an adapter, no model, or nothing.
        CheckRefused: a shard is cut off.
    """
    directory = Path(path)
    if directory.is_dir():
        refuse_other_directory(path)
        _check_shards(directory)
    elif directory.is_absolute() or path.startswith(".") or path.count("/") != 1:
        raise UserError(f"model.path {path} does not exist{seen_from(path)}; run the recipe that makes it")


def _snapshot(path: str, revision: str) -> Path:
    return Path(str(cached_file(path, "config.json", revision=revision, local_files_only=True))).parent


def _check_shards(directory: Path) -> None:
    # transformers reads shard by shard and fails deep inside the first bad one, half a 65 GB model later
    for shard in sorted(directory.glob("*.safetensors")):
        try:
            with safe_open(shard, "pt"):
                pass
        except SafetensorError as error:
            raise CheckRefused(
                f"{shard} is damaged or cut off ({first_line(error)}); download or make it again"
            ) from error


def _unreadable(path: str, error: OSError) -> UserError:
    if Path(path).is_dir():
        return CheckRefused(f"{path} cannot be read as a model: {first_line(error)}")
    return UserError(
        f"model.path {path} is not a directory here, and the Hub did not provide it ({first_line(error)}); make the "
        "directory with the recipe that trains it, or run `agentforge download` where the Hub is reachable"
    )
