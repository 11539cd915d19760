"""A server starts, ranks and stops with every number of a section at either of its bounds."""

import asyncio
import math
from typing import Any

import pytest

from animora_client import AsyncRankingClient
from animora_server.app import running
from animora_server.configuration import Option, options
from animora_server.settings import Settings
from tests.support.feed import TRAINED_USERS
from tests.support.pages import get
from tests.support.until import HANG_TIMEOUT

# Workers are processes of their own, and ports must be free.
NOT_TRIED = {"grpc.workers", "grpc.port", "http.port"}
NUMBERS = [
    option
    for option in options()
    if type(option.field.default) in {int, float} and option.key not in NOT_TRIED
]
# Options that other sections need beside a bound; the smallest max_block_age is too short for slow machines.
COMPANIONS: dict[tuple[str, str], dict[str, dict[str, Any]]] = {
    ("ranking", "most"): {"scorer": {"max_queue_rows": 10**9}},
    ("timeline", "most"): {"scorer": {"max_queue_rows": 10**9}},
    ("catalog", "least"): {"catalog": {"max_block_age": 600.0}},
}


def bound(option: Option, end: str) -> float | int:
    """The lower or the upper bound of an option."""
    limits = {
        name: value
        for limit in option.field.metadata
        for name in ("gt", "ge", "le")
        if (value := getattr(limit, name, None)) is not None
    }
    if end == "most":
        value = limits["le"]
    elif "ge" in limits:
        value = limits["ge"]
    else:
        value = math.nextafter(limits["gt"], math.inf)
    return int(value) if option.field.annotation is int else float(value)


@pytest.mark.parametrize("end", ["least", "most"])
@pytest.mark.parametrize("section", sorted({option.section for option in NUMBERS}))
async def test_a_server_serves_with_all_numbers_of_a_section_at_their_bounds(
    settings: Settings, section: str, end: str
):
    numbers = {option.name: bound(option, end) for option in NUMBERS if option.section == section}
    values: dict[str, dict[str, Any]] = {
        name: dict(getattr(settings, name)) for name in Settings.model_fields
    }
    values[section] |= numbers
    if values["timeline"]["recency_weight"] == values["timeline"]["popularity_weight"] == 1.0:
        values["timeline"]["popularity_weight"] = 0.0
    for other, companions in COMPANIONS.get((section, end), {}).items():
        values[other] |= companions
    at_bounds = Settings.model_validate(values)
    async with running(at_bounds) as server:
        assert await asyncio.to_thread(get, server.probes.port, "/livez") == "ok\n"
        if (section, end) != ("database", "least"):  # no connection succeeds within a millisecond
            await server.listen()
            async with AsyncRankingClient(f"127.0.0.1:{server.grpc.port}") as client:
                ranking = await client.rank(TRAINED_USERS[0], [100], timeout=HANG_TIMEOUT)
                assert list(ranking.post_ids) == [100]
