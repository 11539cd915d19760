"""The error of embedded servers."""

from animora_server.errors import AnimoraError


class EmbeddedError(AnimoraError):
    """An embedded server is missing or fails to start; the text has advice or the last log lines."""
