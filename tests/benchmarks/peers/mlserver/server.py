"""MLServer: a grpc.aio front that batches adaptively, with the model in the same process or in a pool."""

import asyncio
from pathlib import Path

from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import install_uvloop_event_loop

from tests.benchmarks.peers.arguments import Arguments
from tests.benchmarks.peers.ranking import PostRanker


class Ranker(MLModel):
    """Ranks a batch in one pass."""

    async def load(self) -> bool:
        """Reads the artifact."""
        self._ranker = PostRanker(Path(self.settings.parameters.uri))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """A row for each user."""
        user, posts = (NumpyCodec.decode_input(one) for one in payload.inputs)
        best, scores = self._ranker.rank(user[:, 0], posts)
        return InferenceResponse(
            model_name=self.name,
            outputs=[NumpyCodec.encode_output("best", best), NumpyCodec.encode_output("scores", scores)],
        )


def main(arguments: Arguments) -> None:
    """Serves until it is ended."""
    settings = Settings(
        host="127.0.0.1",
        grpc_port=arguments.port,
        http_port=0,
        metrics_endpoint=None,
        debug=False,
        parallel_workers=arguments.workers,
    )
    model = ModelSettings(
        name="ranker",
        implementation="tests.benchmarks.peers.mlserver.server.Ranker",  # where its pool finds it too
        max_batch_size=32,
        max_batch_time=0.001,
        parameters=ModelParameters(uri=str(arguments.folder)),
    )
    install_uvloop_event_loop()

    async def serve() -> None:
        await MLServer(settings).start([model])

    asyncio.run(serve())


if __name__ == "__main__":
    main(Arguments.parse())
