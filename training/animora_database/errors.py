"""Errors of the package."""


class InvalidDsn(ValueError):
    """A connection string is invalid; the text names the option but quotes no value."""


class UnusableView(Exception):
    """A view is missing, unreadable, or breaks the contract; the text says what to do."""
