"""What tells of a server: metrics of one process or of many, probes, and health."""
