"""What a training will refuse, known before anything is spent: `show`, `plan`, `doctor`, `prepare`, `run` and `train`
ask the same checker."""
