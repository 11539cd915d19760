"""A new version that leaves a band is rolled back under load: no request fails, and no score is wrong."""

import asyncio
import math
from typing import Any

import pytest

from animora_artifact import FolderStore
from animora_server.settings import Settings
from tests.integration.serving import serving, with_options
from tests.support.artifacts import TinyNetwork, tiny_artifact
from tests.support.faulty_networks import NotFiniteLater, RaisesLater, Shifted, Slow
from tests.support.ledger import Ledger
from tests.support.pages import metric
from tests.support.until import HANG_TIMEOUT

ALL_BANDS_OFF = {"max_error_rate": 1, "max_invalid_rate": 1}
FAULTS: dict[str, tuple[type[TinyNetwork], dict[str, Any]]] = {
    "errors": (RaisesLater, {}),  # on by default
    "invalid_scores": (NotFiniteLater, {}),
    "slowdown": (Slow, ALL_BANDS_OFF | {"max_slowdown": 3.0}),
    "score_shift": (Shifted, ALL_BANDS_OFF | {"max_score_shift": 0.25}),
}


def activate(store: FolderStore, version: str, network: type[TinyNetwork], seed: int = 1) -> TinyNetwork:
    artifact, eager = tiny_artifact(version, seed=seed, network_type=network)
    store.publish(artifact)
    store.activate(version)
    return eager


# With one resident version there is none to compare with, and the one before is loaded again.
@pytest.mark.parametrize(
    ("band", "resident"), [*((band, 2) for band in FAULTS), ("errors", 1), ("invalid_scores", 1)]
)
async def test_a_version_that_leaves_a_band_is_rolled_back_under_load(
    feed, store, settings: Settings, band, resident
):
    network, options = FAULTS[band]
    settings = with_options(settings, rollback=options, models={"resident": resident})
    ledger = Ledger(feed, {"v1": tiny_artifact("v1", seed=1)[1]})
    async with serving(settings) as (application, stub), ledger.load(stub):
        await ledger.until_version("v1")
        ledger.networks = {**ledger.networks, "v2": activate(store, "v2", network)}
        rollbacks = f'animora_model_rollbacks_total{{band="{band}"}}'
        while not await metric(application, rollbacks):
            await ledger.more(10)
        ledger.versions.clear()
        await ledger.until_version("v1")
        await ledger.more(100)
        # It stays refused: ACTIVE still names it.
        assert store.pointer().active == "v2"
        assert await metric(application, rollbacks) == 1
        assert await metric(application, f'animora_model_rolled_back{{band="{band}",version="v2"}}') == 1
        assert await metric(application, 'animora_model_active{version="v1"}') == 1
        # Another version is taken, and has a trial of its own.
        ledger.networks = {**ledger.networks, "v3": activate(store, "v3", TinyNetwork, seed=1)}
        await ledger.until_version("v3")
        await ledger.more(100)
        assert await metric(application, "animora_model_rollbacks_total") == 1
        assert await metric(application, "animora_model_rolled_back") == 0
    assert ledger.wrong == []
    # No request fails; those that the version could not score were ranked by the heuristic.
    assert set(ledger.outcomes) <= {"OK", "DEGRADED_REASON_INVALID_SCORES"}
    assert sum(ledger.outcomes.values()) == ledger.sent


async def test_a_version_that_does_as_well_as_the_one_before_stays(feed, store, settings):
    bands = {"window": 2.0, "max_slowdown": 100.0, "max_score_shift": 0.25, "min_requests": 20}
    settings = with_options(settings, rollback=bands)
    ledger = Ledger(feed, {"v1": tiny_artifact("v1", seed=1)[1]})
    async with serving(settings) as (application, stub), ledger.load(stub):
        await ledger.until_version("v1")
        ledger.networks = {**ledger.networks, "v2": activate(store, "v2", TinyNetwork)}
        await ledger.until_version("v2")
        while math.isnan(await metric(application, "animora_model_slowdown")):
            await ledger.more(10)
        while not math.isnan(await metric(application, "animora_model_slowdown")):  # the window is over
            await ledger.more(10)
        await ledger.more(50)
        assert await metric(application, "animora_model_rollbacks_total") == 0
        assert await metric(application, 'animora_model_active{version="v2"}') == 1
    assert ledger.wrong == []
    assert ledger.outcomes == {"OK": ledger.sent}


async def test_a_server_that_starts_with_a_failing_version_goes_back_to_the_one_before(feed, store, settings):
    activate(store, "v2", RaisesLater)
    ledger = Ledger(feed, {"v1": tiny_artifact("v1", seed=1)[1]})
    async with (
        serving(settings) as (application, stub),
        asyncio.timeout(HANG_TIMEOUT),
        ledger.load(stub),
    ):
        await ledger.until_version("v1")
        await ledger.more(50)
        assert await metric(application, 'animora_model_rollbacks_total{band="errors"}') == 1
    assert ledger.wrong == []
    assert set(ledger.outcomes) == {"OK", "DEGRADED_REASON_INVALID_SCORES"}


async def test_without_automatic_roll_back_a_failing_version_serves_and_the_heuristic_answers(
    feed, store, settings
):
    ledger = Ledger(feed, {"v1": tiny_artifact("v1", seed=1)[1]})
    async with serving(with_options(settings, rollback={"window": 0})) as (application, stub):
        async with ledger.load(stub):
            await ledger.until_version("v1")
            activate(store, "v2", RaisesLater)
            while ledger.outcomes["DEGRADED_REASON_INVALID_SCORES"] < 300:
                await ledger.more(10)
        assert await metric(application, "animora_model_rollbacks_total") == 0
        assert await metric(application, 'animora_model_active{version="v2"}') == 1
    assert ledger.wrong == []


@pytest.mark.parametrize("band", FAULTS)
async def test_an_arm_whose_version_leaves_a_band_is_switched_off_under_load(feed, store, settings, band):
    network, options = FAULTS[band]
    artifact, eager = tiny_artifact("v2", seed=1, network_type=network)
    store.publish(artifact)
    arms = {"canary": {"share": 100, "model_version": "v2"}}
    settings = with_options(settings, rollback=options, experiments={"arms": arms})
    ledger = Ledger(feed, {"v1": tiny_artifact("v1", seed=1)[1], "v2": eager})
    async with serving(settings) as (application, stub), ledger.load(stub):
        left = f'animora_arm_left_bands_total{{arm="canary",band="{band}"}}'
        while not await metric(application, left):
            await ledger.more(10)
        assert await metric(application, 'animora_arm_enabled{arm="canary"}') == 0
        ledger.versions.clear()
        await ledger.more(100)
        assert set(ledger.versions) == {"v1"}
        assert await metric(application, left) == 1
        assert await metric(application, "animora_model_rollbacks_total") == 0
    assert ledger.wrong == []
    assert set(ledger.outcomes) <= {"OK", "DEGRADED_REASON_INVALID_SCORES"}
