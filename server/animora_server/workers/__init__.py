"""Several server processes behind one port, and the supervisor that starts, watches and drains them."""

from animora_server.workers.supervisor_process import supervise

__all__ = ["supervise"]
