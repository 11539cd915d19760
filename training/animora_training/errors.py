"""Errors of the trainer. Their texts are shown to the user and say what to do.

TrainingError
├── InvalidOption(option)   the value of an option is not allowed
├── InvalidInput            a file has the wrong format
├── CannotWrite             a file cannot be written: no space, or no permission
├── DatabaseError           PostgreSQL is unreachable, or breaks the contract of the views
├── PeerFailed              another process of the same fit has failed
├── Interrupted             a signal ended a fit
├── WidthMismatch           embeddings have another width than the model's
├── NotFinite               a loss, weights or scores are not finite
├── NotCompiled             the native scoring code cannot be compiled
├── NothingToLearn          too few interactions to train or evaluate
├── OutOfMemory             a part of a fit does not fit into memory
└── WorseThanActive         the gate refused a version
"""


class TrainingError(Exception):
    """Base class of the trainer's errors."""


class InvalidOption(TrainingError):
    """The value of an option is not allowed. `option` is its name."""

    def __init__(self, option: str, description: str) -> None:
        super().__init__(f"{option}: {description}")
        self.option = option


class InvalidInput(TrainingError):
    """A file has the wrong format."""


class CannotWrite(TrainingError):
    """A file cannot be written: no space, or no permission."""


class DatabaseError(TrainingError):
    """PostgreSQL is unreachable, or breaks the contract of the views."""


class PeerFailed(TrainingError):
    """Another process of the same fit has failed and prints the cause."""


class Interrupted(TrainingError):
    """A signal ended a fit; it can be resumed from its run folder, if it has one."""


class WidthMismatch(TrainingError):
    """Embeddings have another width than the model's."""


class NotFinite(TrainingError):
    """A loss, weights or scores are NaN or infinite."""


class NotCompiled(TrainingError):
    """The native scoring code cannot be compiled; the version is published without it."""


class NothingToLearn(TrainingError):
    """Too few interactions to train or evaluate."""


class OutOfMemory(TrainingError):
    """A part of a fit does not fit into memory; the text names the part and a remedy."""


class WorseThanActive(TrainingError):
    """The gate refused a version that is worse than the active one, its parent or the heuristic."""
