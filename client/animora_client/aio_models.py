"""The client of the admin port for asyncio."""

from types import TracebackType
from typing import Self, Unpack

import grpc

from animora_client.aio import invoke, is_connected, open_channel
from animora_client.calls import Result, UnaryCall
from animora_client.connection import ClientOptions, Connection
from animora_client.models import (
    ADMIN_TIMEOUT,
    DEFAULT_ADMIN_TARGET,
    ModelPage,
    ModelVersion,
    activate_model_call,
    get_model_call,
    list_models_call,
)
from animora_proto.ranking.v1 import models_pb2_grpc


class AsyncModelClient:
    """Lists and activates the versions of a server's model store, within the `async with` block.

    A call takes a minute at most, unless `timeout` says otherwise, and is not retried. `Connection` documents
    the arguments.
    """

    def __init__(self, target: str = DEFAULT_ADMIN_TARGET, **options: Unpack[ClientOptions]) -> None:
        defaults: ClientOptions = {"timeout": ADMIN_TIMEOUT}
        self._connection = Connection(target, **(defaults | options))
        self._channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> Self:
        self._channel = open_channel(self._connection, self._connection.probe_arguments())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def list_models(
        self, *, page_size: int = 0, page_token: str = "", timeout: float | None = None
    ) -> ModelPage:
        """Lists versions, the newest names first.

        Args:
            page_size: Versions on the page at most; 0 for the server's default.
            page_token: The `next_page_token` of the page before; empty for the first page.
            timeout: Seconds the call may take; None for the client's timeout.

        Raises:
            RankingError: The call failed.
        """
        return await self._invoke(list_models_call(page_size, page_token), timeout)

    async def get_model(self, version: str, *, timeout: float | None = None) -> ModelVersion:
        """Gets one version.

        Raises:
            RankingError: The call failed; `NotFound` for an unknown version.
        """
        return await self._invoke(get_model_call(version), timeout)

    async def activate_model(
        self, version: str, *, expected: str | None = None, timeout: float | None = None
    ) -> ModelVersion:
        """Makes a version the active one, forward or back; returns once the server serves it.

        Args:
            version: The version.
            expected: The version that must be active so far, empty for none; None for no condition.
            timeout: Seconds the call may take; None for the client's timeout. The server goes on afterwards.

        Raises:
            FailedPrecondition: The version must not serve, or another one than `expected` is active.
            RankingError: The call failed; `NotFound` for an unknown version.
        """
        return await self._invoke(activate_model_call(version, expected), timeout)

    async def _invoke(self, call: UnaryCall[Result], timeout: float | None) -> Result:
        channel = self._channel
        if channel is None:
            raise RuntimeError("the client is not open: make calls inside its `async with` block")
        stub = models_pb2_grpc.ModelServiceStub(channel)
        return await invoke(stub, call, self._connection.call(timeout), lambda: is_connected(channel))
