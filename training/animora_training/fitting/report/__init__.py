"""The report of a fit: one HTML file that needs no network, for whoever reviews or runs the fit."""

from animora_training.fitting.report.page import render, write_report

__all__ = ["render", "write_report"]
