"""The tests of this folder run on a CPU, and on a GPU where there is one.

They need PyTorch and few other packages, and no fixture of other folders: `make bench-gpu` runs them where
the server is not installed.
"""

from importlib.util import find_spec

import pytest
import torch

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
SERVER_PACKAGES = ("numba", "prometheus_client")

collect_ignore = [] if all(map(find_spec, SERVER_PACKAGES)) else ["test_swaps.py"]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, NEEDS_GPU])])
def device(request) -> torch.device:
    return torch.device(request.param)
