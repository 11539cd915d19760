"""The client library of an Animora server: `AsyncRankingClient` for asyncio, `RankingClient` for threads."""

from animora_client.aio import AsyncRankingClient, AsyncTimeline
from animora_client.aio_models import AsyncModelClient
from animora_client.connection import ChannelOptions, RetryPolicy, Throttling
from animora_client.errors import (
    DeadlineExceeded,
    ErrorDetails,
    FailedPrecondition,
    FieldViolation,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    RankingError,
    ResourceExhausted,
    SnapshotGone,
    Throttled,
    Unauthenticated,
    Unavailable,
)
from animora_client.models import ModelPage, ModelVersion
from animora_client.overload import CallCounts
from animora_client.ranking import (
    CacheStatus,
    DegradedReason,
    Dropped,
    DropReason,
    Health,
    RankedPost,
    Ranker,
    Ranking,
)
from animora_client.request import CachePolicy, Priority, RankOptions, RankRequest, TimelineOptions
from animora_client.sync import RankingClient, Timeline
from animora_client.sync_models import ModelClient
from animora_client.timeline import Explanation, TimelinePage
from animora_client.tls import Tls

__all__ = [
    "AsyncModelClient",
    "AsyncRankingClient",
    "AsyncTimeline",
    "CachePolicy",
    "CacheStatus",
    "CallCounts",
    "ChannelOptions",
    "DeadlineExceeded",
    "DegradedReason",
    "DropReason",
    "Dropped",
    "ErrorDetails",
    "Explanation",
    "FailedPrecondition",
    "FieldViolation",
    "Health",
    "Internal",
    "InvalidArgument",
    "ModelClient",
    "ModelPage",
    "ModelVersion",
    "NotFound",
    "PermissionDenied",
    "Priority",
    "RankOptions",
    "RankRequest",
    "RankedPost",
    "Ranker",
    "Ranking",
    "RankingClient",
    "RankingError",
    "ResourceExhausted",
    "RetryPolicy",
    "SnapshotGone",
    "Throttled",
    "Throttling",
    "Timeline",
    "TimelineOptions",
    "TimelinePage",
    "Tls",
    "Unauthenticated",
    "Unavailable",
]
