"""Ranks the posts of a feed with an Animora server: `AsyncRankingClient` and `RankingClient`."""

from animora_client.aio import AsyncRankingClient
from animora_client.connection import ChannelOptions, RetryPolicy
from animora_client.errors import (
    DeadlineExceeded,
    ErrorDetails,
    FailedPrecondition,
    FieldViolation,
    Internal,
    InvalidArgument,
    PermissionDenied,
    RankingError,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from animora_client.health import Health
from animora_client.ranking import CacheStatus, DegradedReason, Dropped, RankedPost, Ranker, Ranking
from animora_client.request import CachePolicy, RankOptions, RankRequest
from animora_client.sync import RankingClient
from animora_client.tls import Tls

__all__ = [
    "AsyncRankingClient",
    "CachePolicy",
    "CacheStatus",
    "ChannelOptions",
    "DeadlineExceeded",
    "DegradedReason",
    "Dropped",
    "ErrorDetails",
    "FailedPrecondition",
    "FieldViolation",
    "Health",
    "Internal",
    "InvalidArgument",
    "PermissionDenied",
    "RankOptions",
    "RankRequest",
    "RankedPost",
    "Ranker",
    "Ranking",
    "RankingClient",
    "RankingError",
    "ResourceExhausted",
    "RetryPolicy",
    "Tls",
    "Unauthenticated",
    "Unavailable",
]
