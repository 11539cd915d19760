"""The report of a fit: one HTML file that needs no network, for whoever reviews or runs the fit."""
