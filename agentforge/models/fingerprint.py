"""What identifies a base model, so that an adapter is never merged into another one of the same shape."""

from __future__ import annotations

from pathlib import Path

from agentforge.artifacts import hash_json, write_json
from agentforge.models.checkpoint import Checkpoint, checkpoint_directory

BASE_FILE = "base.json"
VOLATILE = {"transformers_version", "_name_or_path", "use_cache"}


def base_fingerprint(path: str | Path, revision: str | None = None) -> str:
    """Return a hash of a checkpoint's config and of every tensor's name, dtype, shape and bytes.

    The same model gives the same hash wherever it lies and however it is sharded; one with another byte gives another
    one. The weights are read once per machine.

    Args:
        path: a directory, or a Hub id.
        revision: commit or tag of a Hub id.
    """
    checkpoint = Checkpoint(checkpoint_directory(path, revision))
    # These change when the same model is saved again.
    config = {key: value for key, value in checkpoint.config.items() if key not in VOLATILE}
    digests = checkpoint.digests()
    tensors = {name: [info.dtype, list(info.shape), digests[name]] for name, info in checkpoint.tensors.items()}
    return hash_json({"config": config, "tensors": tensors})


def write_base(adapter: Path, base: str | Path, revision: str | None = None) -> None:
    """Leave in an adapter's directory what it was trained on: ``base.json`` with path, revision and fingerprint."""
    fingerprint = base_fingerprint(base, revision)
    write_json(adapter / BASE_FILE, {"path": str(base), "revision": revision, "fingerprint": fingerprint})
