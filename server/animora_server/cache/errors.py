"""What can be wrong with a value in Redis."""


class UnreadableValue(ValueError):
    """A value that is not what was stored under its key: damaged, forged, or another key's."""
