"""The load generator: sends calls, checks every reply, and measures. Requires the extra `cli`."""
