"""Whether a server serves, after grpc.health.v1."""

from enum import StrEnum

from grpc_health.v1 import health_pb2


class Health(StrEnum):
    """What a server says of a service."""

    SERVING = "serving"
    NOT_SERVING = "not_serving"  # it starts, it drains, or it lacks what it needs


def health_message(service: str) -> health_pb2.HealthCheckRequest:
    """The question."""
    return health_pb2.HealthCheckRequest(service=service)


def read_health(message: health_pb2.HealthCheckResponse) -> Health:
    """The answer."""
    serving = message.status == health_pb2.HealthCheckResponse.SERVING
    return Health.SERVING if serving else Health.NOT_SERVING
