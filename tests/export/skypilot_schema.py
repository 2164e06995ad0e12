"""What SkyPilot 0.14 takes of the keys that our tasks use, as a JSON schema, after its `sky.utils.schemas`.

Its own schema cannot be used here: SkyPilot pins older versions of click and uvicorn. If it is in an environment of its
own, `SKYPILOT_PYTHON=.../bin/python pytest tests/export/test_launch.py` also lets SkyPilot itself read the tasks.
"""

from typing import Any

TASK: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "resources", "workdir", "setup", "run"],
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 120},
        "num_nodes": {"type": "integer", "minimum": 1},
        "resources": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "accelerators": {"type": "string", "pattern": "^[A-Z0-9]+:[1-9][0-9]*$"},
                "cpus": {"type": ["string", "number"], "pattern": r"^[0-9]+\+?$"},
                "network_tier": {"enum": ["standard", "best"]},
                "disk_size": {"type": "integer", "minimum": 20},
                "use_spot": {"type": "boolean"},
                "job_recovery": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "recover_on_exit_codes": {
                            "type": "array",
                            "uniqueItems": True,
                            "items": {"type": "integer", "minimum": 0, "maximum": 255},
                        }
                    },
                },
            },
        },
        "workdir": {"type": "string"},
        "secrets": {"type": "object", "additionalProperties": {"type": ["string", "null"]}},
        "file_mounts": {
            "type": "object",
            "patternProperties": {
                "^/": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["name", "mode"],
                    "properties": {
                        # of a bucket, in every cloud
                        "name": {"type": "string", "pattern": "^[a-z0-9][-a-z0-9]{1,61}[a-z0-9]$"},
                        "mode": {"enum": ["MOUNT", "COPY", "MOUNT_CACHED"]},
                    },
                }
            },
            "additionalProperties": False,
        },
        "setup": {"type": "string"},
        "run": {"type": "string"},
    },
}
