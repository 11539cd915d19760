"""Begins transactions whose results do not depend on settings of the role, database or pooler."""

# Settings of text formats and of the time zone, which casts in a view depend on.
SETTINGS = {
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "array_nulls": "on",
    "row_security": "on",
    # No timeouts by the server; the programs have their own.
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}
SINCE_17 = {"transaction_timeout": "0"}


def begin_reading(major_version: int) -> str:
    """SQL that begins a read-only snapshot transaction, for a server of a major version.

    The settings are local to the transaction, since a pooler may use another session for the next one. None
    of the statements takes the snapshot yet.
    """
    settings = SETTINGS | (SINCE_17 if major_version >= 17 else {})
    return "; ".join(
        [
            "begin isolation level repeatable read read only",
            *(f"set local {name} = '{value}'" for name, value in settings.items()),
        ]
    )
