"""What can go wrong with an embedded server."""

from animora_server.errors import AnimoraError


class EmbeddedError(AnimoraError):
    """An embedded server is not found or does not come up; says what to install, or the log's last lines."""
