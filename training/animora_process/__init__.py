"""What the server, the trainer and the client set up in their process before the rest of it is imported.

`entry_point` runs a command, or prints its version, or names the extra that is missing. `signals` ends a
process that is still starting, `standard_streams` opens the streams that are closed and ends a process
whose output fails, and `user` names the user for asyncpg and others that ask. It imports the standard library
alone.
"""
