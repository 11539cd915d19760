"""One worker, as its parent starts it: what it needs to know comes over its standard input."""

import structlog

from animora_server import stderr_capture
from animora_server.logs import configure_logs
from animora_server.program import run
from animora_server.workers import cores
from animora_server.workers.ipc_messages import DEVICE
from animora_server.workers.parent_channel import ParentChannel


def main() -> None:
    """Serves until the parent says or is gone."""
    parent = ParentChannel.on_standard_input()
    configure_logs(parent.settings.log.level, parent.settings.log.format)
    stderr_capture.start()
    structlog.contextvars.bind_contextvars(worker=parent.name)
    if parent.settings.grpc.pin_workers and parent.name != DEVICE:
        cores.pin(int(parent.name))
    parent.answer()
    if parent.name == DEVICE:
        from animora_server.shared_device.process import share  # noqa: PLC0415  # PyTorch takes a second, or many

        run(share(parent))
    from animora_server.workers.serving import serve  # noqa: PLC0415  # PyTorch again, or gRPC at least

    run(serve(parent))


if __name__ == "__main__":
    main()
