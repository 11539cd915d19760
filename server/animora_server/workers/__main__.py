"""The entry point of a worker process. Its standard input is the socket to the supervisor."""

import structlog

from animora_server import stderr_capture
from animora_server.logs import configure_logs
from animora_server.program import run
from animora_server.workers import cpu_affinity
from animora_server.workers.ipc_messages import DEVICE
from animora_server.workers.parent_channel import ParentChannel


def main() -> None:
    """Serves until the supervisor sends `drain` or ends."""
    parent = ParentChannel.from_stdin()
    configure_logs(parent.settings.log.level, parent.settings.log.format)
    stderr_capture.start()
    structlog.contextvars.bind_contextvars(worker=parent.name)
    if parent.settings.grpc.pin_workers and parent.name != DEVICE:
        cpu_affinity.pin_worker(int(parent.name))
    parent.start()
    if parent.name == DEVICE:
        from animora_server.workers.device_process import share  # noqa: PLC0415  # importing PyTorch takes seconds

        run(share(parent))
    from animora_server.workers.serving import serve  # noqa: PLC0415  # imports gRPC, and PyTorch unless the device is shared

    run(serve(parent))


if __name__ == "__main__":
    main()
