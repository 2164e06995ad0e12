"""What `data.template` may be: the base's own, agentforge's with a family's markers, a family's own, or a file."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from agentforge.errors import did_you_mean

OWN = ("auto", "chatml", "deepseek_r1")


def family_templates() -> dict[str, Path]:
    """Return the chat templates that TRL's wheel brings, by family, without importing TRL."""
    found = importlib.util.find_spec("trl")
    places = list(found.submodule_search_locations or ()) if found else []
    files = [file for place in places for file in sorted((Path(place) / "chat_templates").glob("*.jinja"))]
    return {file.stem: file for file in files if not file.stem.endswith("_training")}


def template_file(name: str) -> Path | None:
    """Return the Jinja file that `data.template` names, None for one of `OWN`.

    Raises:
        ValueError: it is neither of those, nor a family, nor a file that exists.
    """
    if name in OWN:
        return None
    path = Path(name)
    if path.suffix in (".jinja", ".jinja2", ".j2") or "/" in name:
        if not path.is_file():
            raise ValueError(f"there is no template file {name}; give the path of a Jinja file")
        return path
    families = family_templates()
    if name not in families:
        known = [*OWN, *families]
        near = did_you_mean(name, known) or f"; it may be {', '.join(OWN)}, a family ({', '.join(families)}) or a file"
        raise ValueError(f"there is no template '{name}'{near}")
    return families[name]
