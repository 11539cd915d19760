"""Animora's wire contracts."""
