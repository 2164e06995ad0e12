"""The training stage: one function, `train.train`, over thin subclasses of the Trainers of transformers and TRL."""
