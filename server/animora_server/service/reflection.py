"""Server reflection: v1, which clients try first, and v1alpha for older clients.

The two protocols differ only in the name of the package. grpcio-reflection has v1alpha alone.
"""

import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
from google.protobuf import descriptor_pool, text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection, reflection_pb2

from animora_server.errors import CallError
from animora_server.service.authorization import Authorizer
from animora_server.service.calls import abort_call
from animora_server.service.status import to_status

Behavior = Callable[[Any, Any], AsyncIterator[Any]]  # of a method that streams both ways

ALPHA, STABLE = "grpc.reflection.v1alpha", "grpc.reflection.v1"
SERVICE = "ServerReflection"
METHOD = "ServerReflectionInfo"


def enable_reflection(
    server: grpc.aio.Server, service_names: Sequence[str], authorizer: Authorizer | None
) -> None:
    """Registers both reflection services, which list the given services and themselves.

    With an authorizer, callers need what the ranking service requires.
    """
    _add_v1_descriptor()
    services = [f"{package}.{SERVICE}" for package in (STABLE, ALPHA)]
    servicer = reflection.aio.ReflectionServicer([*service_names, *services])
    reflect = servicer.ServerReflectionInfo
    handler = grpc.stream_stream_rpc_method_handler(
        reflect if authorizer is None else _authorized(reflect, authorizer),
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(service, {METHOD: handler}) for service in services]
    )


def _authorized(reflect: Behavior, authorizer: Authorizer) -> Behavior:
    async def authorize(requests: Any, context: Any) -> AsyncIterator[Any]:
        request_id = secrets.token_hex(8)

        async def admitted() -> AsyncIterator[Any]:
            authorizer.require(context, request_id)
            async for request in requests:
                authorizer.require(context, request_id)  # the access list may have changed
                yield request

        try:
            async for response in reflect(admitted(), context):
                yield response
        except CallError as error:
            await abort_call(context, to_status(error, request_id), request_id)

    return authorize


def _add_v1_descriptor() -> None:
    """Adds the descriptor of v1 to the default pool, derived from that of v1alpha."""
    alpha = FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(alpha)
    stable = text_format.Parse(
        text_format.MessageToString(alpha).replace(ALPHA, STABLE), FileDescriptorProto()
    )
    stable.name = "grpc/reflection/v1/reflection.proto"
    pool = descriptor_pool.Default()
    try:
        pool.FindFileContainingSymbol(f"{STABLE}.{SERVICE}")
    except KeyError:
        pool.AddSerializedFile(stable.SerializeToString())
