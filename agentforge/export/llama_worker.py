"""What llama.cpp is asked to do, in a process of its own.

Where it meets what it does not expect it aborts, and with it the process it lives in; and only the end of a process
surely gives back the memory of a 35 GB model. ``python -m agentforge.export.llama_worker quantize|examine ...``.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h
SMALL_FILE = 100_000_000


def die_with_parent() -> None:
    """Ask Linux to end this process when its parent ends: an orphan would write into the next run's directory."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def threads_for(file: str) -> int:
    """Return one thread for a small file, which waiting for others would only slow down, else one per core."""
    return 1 if os.path.getsize(file) < SMALL_FILE else len(os.sched_getaffinity(0))


def quantize(source: str, target: str, file_type: str) -> None:
    """Write a quantised copy of a GGUF; ``file_type`` is a number of enum llama_ftype."""
    import llama_cpp

    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = int(file_type)
    settings.nthread = threads_for(source)
    if code := llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(settings)):
        sys.exit(f"llama_model_quantize: code {code}")


def examine(file: str, questions: str, directory: str) -> None:
    """Answer what the check of a GGUF asks.

    Args:
        file: the GGUF.
        questions: JSON with ``rows`` (token ids whose logits are wanted) and ``texts`` (to be tokenised).
        directory: where logits-NNN.npy (T, V) and answers.json are written.
    """
    import llama_cpp
    import numpy as np

    asked = json.loads(Path(questions).read_text(encoding="utf-8"))
    size, threads = max(map(len, asked["rows"])), threads_for(file)
    # A row in one pass, as transformers computes it, and logits of every position instead of the last.
    model = llama_cpp.Llama(
        file,
        n_ctx=size,
        n_batch=size,
        n_ubatch=size,
        n_threads=threads,
        n_threads_batch=threads,
        logits_all=True,
        verbose=False,
    )
    for number, row in enumerate(asked["rows"]):
        # Each row begins with an empty cache.
        model.reset()
        model.eval(row)
        np.save(Path(directory) / f"logits-{number:03}.npy", model.scores[: len(row)])
    vocabulary = llama_cpp.llama_model_get_vocab(model.model)
    answers = {
        # special=True: tags and control tokens in a text are found as tokens, as transformers' `encode` does.
        "tokens": [model.tokenize(text.encode("utf-8"), add_bos=False, special=True) for text in asked["texts"]],
        # What it will stop at and add, which is more than the file says: it also knows some tokens by their names.
        "eog": [token for token in range(model.n_vocab()) if llama_cpp.llama_vocab_is_eog(vocabulary, token)],
        "add_bos": bool(llama_cpp.llama_vocab_get_add_bos(vocabulary)),
        "add_eos": bool(llama_cpp.llama_vocab_get_add_eos(vocabulary)),
    }
    (Path(directory) / "answers.json").write_text(json.dumps(answers), encoding="utf-8")


if __name__ == "__main__":
    die_with_parent()
    {"quantize": quantize, "examine": examine}[sys.argv[1]](*sys.argv[2:])
