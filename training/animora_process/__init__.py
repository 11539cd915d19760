"""What every command sets up in its process before its slow imports.

`entry_point` runs a command, prints its version, or reports a missing extra; it opens closed standard streams
and ends a process whose output fails. `signals` ends a process that is still starting. `user` sets USER and
HOME. The package imports the standard library only.
"""
