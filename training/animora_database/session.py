"""Begins transactions in which no setting of the role, the database or the pooler changes a result."""

# What times, numbers and bytes are as text, to and from which a view may cast. A time without a zone that a
# view casts to one with a zone is UTC.
SETTINGS = {
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "array_nulls": "on",
    "row_security": "on",
    # A load takes as long as it takes; the programs have timeouts of their own.
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}
SINCE_17 = {"transaction_timeout": "0"}


def begin_reading(major_version: int) -> str:
    """SQL that begins a read-only transaction of one moment, for a server of a major version.

    The settings are local to the transaction, as a pooler may give the next one another session. None of the
    statements takes the transaction's snapshot.
    """
    settings = SETTINGS | (SINCE_17 if major_version >= 17 else {})
    return "; ".join(
        [
            "begin isolation level repeatable read read only",
            *(f"set local {name} = '{value}'" for name, value in settings.items()),
        ]
    )
