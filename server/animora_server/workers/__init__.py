"""Several processes behind one port, and the one that starts them, keeps them and speaks for them."""

from animora_server.workers.supervisor_process import supervise

__all__ = ["supervise"]
