"""The command line: `animora-train`."""
