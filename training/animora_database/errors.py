"""Errors of the package."""


class InvalidDsn(ValueError):
    """A connection string is invalid; the text names the option but quotes no value."""
