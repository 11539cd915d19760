"""PyTriton: Triton's C++ front collects requests, and this process, or more, ranks what it has collected."""

import os
import sysconfig
from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from tests.benchmarks.peers.arguments import Arguments
from tests.benchmarks.peers.ranking import BEST, CANDIDATES, PostRanker

LOCAL = "127.0.0.1"


def main(arguments: Arguments) -> None:
    """Serves until it is ended."""
    # Triton's own Python must be the one that its standard library belongs to.
    os.environ["LD_LIBRARY_PATH"] = sysconfig.get_config_var("LIBDIR")
    ranker = PostRanker(arguments.folder)

    @batch
    def rank(user: Any, posts: Any) -> dict[str, Any]:
        best, scores = ranker.rank(user[:, 0], posts)
        return {"best": best, "scores": scores}

    config = TritonConfig(
        grpc_address=LOCAL, grpc_port=arguments.port, allow_http=False, allow_metrics=False, log_verbose=0
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="ranker",
            infer_func=[rank] * arguments.workers,
            inputs=[
                Tensor(name="user", dtype=np.int64, shape=(1,)),
                Tensor(name="posts", dtype=np.int64, shape=(CANDIDATES,)),
            ],
            outputs=[
                Tensor(name="best", dtype=np.int64, shape=(BEST,)),
                Tensor(name="scores", dtype=np.float32, shape=(BEST,)),
            ],
            config=ModelConfig(max_batch_size=32, batcher=DynamicBatcher(max_queue_delay_microseconds=1000)),
            strict=False,
        )
        triton.serve()


if __name__ == "__main__":
    main(Arguments.parse())
