"""`fit --processes`: starts worker processes with torchrun's launcher."""

import os
import sys
from collections.abc import Sequence
from uuid import uuid4

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

EXIT_SIGNAL = 128


def launch(count: int, words: Sequence[str]) -> int:
    """Runs a command line in several processes.

    Args:
        count: Number of processes.
        words: Arguments of the command line.

    Returns:
        Exit code: 0, that of the first process that failed, or 128 + N if signal N ended it.
    """
    # An equal share of the cores for each process.
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // count, 1)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        logs_specs=DefaultLogsSpecs(),
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "animora_training", *words)
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        return first.exitcode if first.exitcode > 0 else EXIT_SIGNAL - first.exitcode
    except SignalException as error:
        return EXIT_SIGNAL + error.sigval
    return 0
