"""What the package raises."""


class InvalidDsn(ValueError):
    """A connection string cannot be used; the text names the option in it, and holds no value."""
