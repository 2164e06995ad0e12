"""The training stage: one function, `train.train`, over thin subclasses of the Trainers of transformers and TRL."""

import os

# TRL reports each run to the Hub; nothing leaves the machine unless the recipe asks for it.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
