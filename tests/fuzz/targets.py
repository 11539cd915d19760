"""What decodes bytes from outside, with recorded messages and the errors that each part documents."""

import dataclasses
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from animora_artifact.errors import ArtifactRejected
from animora_artifact.manifest import Manifest
from animora_artifact.npz import Expected, read_npz, to_npz
from animora_artifact.pointer import Pointer
from animora_database.copy_format import (
    HEADER,
    TRAILER,
    EmbeddingRows,
    encode_real_arrays,
    encode_row,
    without_header,
)
from animora_database.embeddings import DECODERS
from animora_database.errors import UnusableView
from animora_database.views import POSTS
from animora_proto.ranking.v1 import ranking_pb2 as pb
from animora_server import auth
from animora_server.cache.generation_codec import decode_generation
from animora_server.cache.queues import UnreadableValue
from animora_server.cache.score_codec import decode as decode_scores
from animora_server.cache.score_codec import encode as encode_scores
from animora_server.cache.timeline_codec import (
    LatestPointer,
    decode_pointer,
    decode_posts,
    decode_timeline,
    encode_pointer,
    encode_posts,
    encode_timeline,
)
from animora_server.errors import CallError, ConfigurationError
from animora_server.service.rank_codec import check_queries, read_batch, read_query
from animora_server.service.timeline_codec import read_timeline_query
from animora_server.service.wire_codec import RankRequest, parse
from animora_server.settings import RankingSettings, TimelineSettings
from animora_server.store.notifications import read_payload
from animora_server.timeline.pages import PageToken, TokenSigner
from animora_server.types import RankedTimeline, RankerName
from tests.support.artifacts import tiny_artifact

KEY = b"key"
TIMELINE_ID = b"s" * 16
USER = 7
NOW = 1e9
LIMITS, TIMELINE = RankingSettings(), TimelineSettings()
SIGNER = TokenSigner(KEY)
EMBEDDINGS = POSTS.select("id", "image_embedding", "caption_embedding")
ARRAYS = {"users": Expected(np.int64, 1), "weights": Expected(np.float32, 2)}


@dataclass(frozen=True, slots=True)
class Target:
    """A decoder.

    Attributes:
        name: What it decodes.
        decode: Decodes bytes.
        seeds: Recorded messages.
        documented: The errors that it may raise.
    """

    name: str
    decode: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    documented: type[Exception] | tuple[type[Exception], ...]


def targets() -> list[Target]:
    """All decoders."""
    return [*_messages(), *_cache(), *_files(), *_database()]


def _messages() -> list[Target]:
    full = pb.RankRequest(user_id=USER, post_ids=[1, 2**62, -5], limit=2, explain=True, model_version="v1")
    plain = pb.RankRequest(user_id=2**63 - 1, post_ids=range(40), exclude_seen=True)
    batch = pb.BatchRankRequest(requests=[full, plain, pb.RankRequest()])
    token = SIGNER.sign(PageToken(USER, True, TIMELINE_ID, 20, int(NOW) + 60))
    old = SIGNER.sign(PageToken(USER, True, TIMELINE_ID, 0, 1, b"a" * 6))
    page = pb.GetTimelineRequest(user_id=USER, page_size=5, page_token=token, explain_post_ids=[1, 2])

    def read_rank(data: bytes) -> None:
        check_queries([read_query(parse(data, RankRequest, pb.RankRequest), LIMITS, NOW)], LIMITS)

    def read_requests(data: bytes) -> None:
        for request in read_batch(data, LIMITS):
            read_query(request, LIMITS, NOW)

    def read_page(data: bytes) -> None:
        message = parse(data, pb.GetTimelineRequest, pb.GetTimelineRequest)
        query = read_timeline_query(message, TIMELINE, NOW)
        SIGNER.read(query.page_token, query.user_id, True, NOW)

    def read_token(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        assert SIGNER.read(text, USER, True, NOW).timeline_id == TIMELINE_ID
        assert text == token, "a token that was not given out is accepted"

    return [
        Target("Rank", read_rank, tuple(each.SerializeToString() for each in (full, plain)), CallError),
        Target("BatchRank", read_requests, (batch.SerializeToString(),), CallError),
        Target("GetTimeline", read_page, (page.SerializeToString(),), CallError),
        Target("page token", read_token, (token.encode(), old.encode()), CallError),
    ]


def _cache() -> list[Target]:
    timeline = RankedTimeline(
        timeline_id=TIMELINE_ID,
        post_ids=np.array([3, 1, 2**40], np.int64),
        scores=np.array([0.9, 0.5, -1.0], np.float32),
        made_at=NOW,
        fresh_until=NOW + 60,
        read_at=NOW - 1,
        ranker=RankerName.NEUCF,
        model_version="v1",
        degraded_reason=None,
    )
    stored = encode_timeline(KEY, timeline)
    small = encode_timeline(KEY, dataclasses.replace(timeline, post_ids=np.arange(3)))
    posts = encode_posts(KEY, np.arange(10))
    pointer = encode_pointer(KEY, LatestPointer(TIMELINE_ID, NOW))
    generation = (
        b'{"format":1,"generation_id":"' + b"ab" * 16 + b'","made_at":1.0,"read_at":1.0,"model_version":"v1",'
        b'"catalog_digest":"00","settings_digest":"00","shards":2}'
    )
    decoders: dict[str, tuple[Callable[[bytes], object], tuple[bytes, ...]]] = {
        "timeline": (lambda data: decode_timeline(data, KEY, TIMELINE_ID), (stored, small)),
        "pointer": (lambda data: decode_pointer(data, KEY), (pointer,)),
        "posts of a generation": (lambda data: decode_posts(data, KEY), (posts,)),
    }
    sealed = [
        # Mutations behind a right checksum, which reach what the checksum guards.
        Target(
            f"{name}, sealed",
            lambda data, decode=decode: decode(data + struct.pack("<I", zlib.crc32(data))),  # type: ignore[misc]
            tuple(seed[:-4] for seed in seeds),
            UnreadableValue,
        )
        for name, (decode, seeds) in decoders.items()
    ]
    scores = encode_scores(KEY, np.array([0.5, 0.25], np.float32))
    return [
        *(Target(name, decode, seeds, UnreadableValue) for name, (decode, seeds) in decoders.items()),
        *sealed,
        Target("scores", lambda data: decode_scores(data, KEY, 2), (scores,), UnreadableValue),
        Target("generation", decode_generation, (generation,), UnreadableValue),
    ]


def _files() -> list[Target]:
    manifest = tiny_artifact("v1")[0].manifest.to_json()
    arrays = to_npz({"users": np.arange(3), "weights": np.ones((2, 2), np.float32)})
    token = auth.describe_token(auth.new_token(), "feed", [auth.Role.RANK]).encode()
    certificate = b'[[certificate]]\nname = "spiffe://feed"\nroles = ["rank", "metrics"]\n'

    def read_access(data: bytes) -> None:
        auth._parse(Path("tokens.toml"), {auth.OPTION: data})

    return [
        Target("manifest", Manifest.parse, (manifest,), ArtifactRejected),
        Target("arrays", lambda data: read_npz(data, ARRAYS), (arrays,), ArtifactRejected),
        Target("ACTIVE", Pointer.parse, (b"v2\nv1\n", b"v1"), ArtifactRejected),
        Target("access list", read_access, (token + certificate, token), ConfigurationError),
    ]


def _database() -> list[Target]:
    vectors = encode_real_arrays(np.ones((1, 3), np.float32))
    rows = encode_row([struct.pack(">q", 5), vectors[0], None]) + encode_row(
        [struct.pack(">q", -1), vectors[0], vectors[0]]
    )
    stream = b"PGCOPY\n\xff\r\n\0" + struct.pack(">II", 0, 0) + rows + TRAILER

    def read_copy(data: bytes) -> None:
        decoder = EmbeddingRows(EMBEDDINGS, (DECODERS["_float4"], DECODERS["_float4"]), lambda *_: None)
        # The first part of a stream is never shorter than its header.
        decoder.finish(decoder.feed(without_header(data.ljust(HEADER.size, b"\0"))))

    payloads = (b"block 12 34", b"unblock 12 34", b"delete 56 57 -3")
    return [
        Target("COPY", read_copy, (stream,), UnusableView),
        Target(
            "notification", lambda data: read_payload(data.decode("utf-8", "replace")), payloads, ValueError
        ),
    ]
