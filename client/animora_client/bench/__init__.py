"""The load generator: asks a server for rankings, checks every reply, and measures. Needs the extra `cli`."""
