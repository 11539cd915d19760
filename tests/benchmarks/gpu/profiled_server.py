"""`animora-server` with a profiler that waits for a file: the server of `make bench-gpu`.

Once the folder named by BENCH_PROFILE has a file `start`, the shares of the next second are written to its
file `profile.json`. Kernels and copies are recorded by PyTorch's profiler, whatever thread starts them.
"""

import json
import os
import threading
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from animora_server.__main__ import main

SECONDS = 1.0  # of a profile: a server at saturation starts some 100,000 kernels in that time
START, RESULT = "start", "profile.json"
FOLDER = "BENCH_PROFILE"  # in the environment


def wait_and_profile(folder: Path, loop_thread: int) -> None:
    """Waits for START, then writes percentages of SECONDS: `loop`, and on a GPU `kernels` and `copies`.

    Args:
        folder: Where the files are.
        loop_thread: The thread of the event loop, whose CPU time is its share.
    """
    while not (folder / START).exists():
        time.sleep(0.05)
    import torch  # noqa: PLC0415  # by now the server has imported it

    is_gpu = torch.cuda.is_available()
    clock = time.pthread_getcpuclockid(loop_thread)
    activities = [torch.profiler.ProfilerActivity.CUDA]
    profiler: Any = torch.profiler.profile(activities=activities) if is_gpu else nullcontext()
    with profiler:
        began, cpu = time.perf_counter(), time.clock_gettime(clock)
        time.sleep(SECONDS)
        loop = time.clock_gettime(clock) - cpu
        seconds = time.perf_counter() - began
    shares = {"loop": loop, **(device_seconds(profiler.events()) if is_gpu else {})}
    temporary = folder / f"{RESULT}.new"
    temporary.write_text(json.dumps({name: 100 * value / seconds for name, value in shares.items()}))
    temporary.rename(folder / RESULT)


def device_seconds(events: Any) -> Mapping[str, float]:
    """Seconds of kernels and of copies among the profiler's events, one after another as on one stream."""
    kernels = copies = 0.0
    for event in events:
        if event.device_type.name != "CUDA":
            continue
        seconds = event.time_range.elapsed_us() / 1e6
        if event.name.startswith(("Memcpy", "Memset")):
            copies += seconds
        else:
            kernels += seconds
    return {"kernels": kernels, "copies": copies}


if __name__ == "__main__":
    threading.Thread(
        target=wait_and_profile, args=(Path(os.environ[FOLDER]), threading.get_ident()), daemon=True
    ).start()
    main()
