"""The ranking service's contract, by version."""
