"""The `animora-train` command line."""
