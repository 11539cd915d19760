"""Trains NeuCF on likes and comments in PostgreSQL, and publishes versions of the model."""
