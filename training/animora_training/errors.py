"""What can go wrong in training, in words for the person at the keyboard.

TrainingError
├── InvalidOption(option)   an option's value cannot be used
├── InvalidInput            a file is not in the format that it should be in
├── CannotWrite             a file cannot be written: the disk is full, or it may not be
├── DatabaseError           PostgreSQL cannot be reached, or is not as the views promise
├── FailedElsewhere         another process of the same fit has failed, and says why
├── Interrupted             a fit was asked to end before its end
├── WidthMismatch           embeddings are of another width than the model's
├── NotFinite               a loss, weights or scores are not finite numbers
├── NotCompiled             a network's score cannot be compiled here
├── NothingToLearn          too few interactions to fit or to score anything
├── OutOfMemory             there is no memory for a part of a fit
└── WorseThanActive         a version is clearly worse than what answers without it
"""


class TrainingError(Exception):
    """The root; the text says what to do."""


class InvalidOption(TrainingError):
    """An option's value cannot be used."""

    def __init__(self, option: str, description: str) -> None:
        super().__init__(f"{option}: {description}")
        self.option = option


class InvalidInput(TrainingError):
    """A file is not in the format that it should be in."""


class CannotWrite(TrainingError):
    """A file cannot be written: the disk is full, or it may not be."""


class DatabaseError(TrainingError):
    """PostgreSQL cannot be reached, or is not as the views promise."""


class FailedElsewhere(TrainingError):
    """Another process of the same fit has failed, and says why."""


class Interrupted(TrainingError):
    """A fit was asked to end before its end; it can go on from its run folder, if it has one."""


class WidthMismatch(TrainingError):
    """Embeddings are of another width than the model's."""


class NotFinite(TrainingError):
    """A loss, weights or scores are not finite numbers: nothing can be ranked or compared by them."""


class NotCompiled(TrainingError):
    """A network's score cannot be compiled here; a version does without."""


class NothingToLearn(TrainingError):
    """Too few interactions to fit or to score anything."""


class OutOfMemory(TrainingError):
    """There is no memory for a part of a fit; the text names the part and what takes less."""


class WorseThanActive(TrainingError):
    """A version is clearly worse than the active one, its parent or the heuristic, and nobody forces it."""
