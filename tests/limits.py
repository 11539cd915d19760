"""How long a test waits for what must happen before it fails."""

# Seconds: far beyond what a machine under load needs, and below pytest's limit for a whole test. A test that
# waits for something that never comes fails by this limit, and its traceback shows where.
HANG_TIMEOUT = 240.0
