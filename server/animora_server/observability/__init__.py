"""Metrics of one process or of many, probes over HTTP, and health."""
