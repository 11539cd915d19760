"""A shadow version is scored beside the active one, and no reply shows it."""

from tests.integration.serving import serving, with_options
from tests.support.artifacts import TinyNetwork, tiny_artifact
from tests.support.faulty_networks import RaisesLater, Shifted
from tests.support.ledger import Ledger
from tests.support.pages import metric


async def test_requests_are_scored_by_the_shadow_too_and_answered_by_the_active_version(
    feed, store, settings
):
    for version, network in (("v2", Shifted), ("v3", TinyNetwork)):
        store.publish(tiny_artifact(version, seed=1, network_type=network)[0])
    settings = with_options(settings, shadow={"version": "v2", "share": 1.0}, models={"resident": 3})
    ledger = Ledger(feed, {version: tiny_artifact(version, seed=1)[1] for version in ("v1", "v3")})
    scored = 'animora_shadow_samples_total{outcome="scored"}'
    async with serving(settings) as (application, stub), ledger.load(stub, workers=2):
        while await metric(application, scored) < 20:
            await ledger.more(5)
        store.activate("v3")
        await ledger.until_version("v3")
        before = await metric(application, scored)
        while await metric(application, scored) < before + 20:
            await ledger.more(5)
        # The shadow's logits are 3 above: the order is the same, and the scores are not.
        compared = await metric(application, "animora_shadow_overlap_count")
        assert compared >= 40
        assert await metric(application, "animora_shadow_overlap_sum") >= 0.99 * compared
        assert await metric(application, "animora_shadow_score_shift_sum") > 0.1 * compared
        assert await metric(application, "animora_shadow_mean_score_shift") > 0.1
        assert await metric(application, "animora_shadow_seconds_count") >= 40
    assert ledger.wrong == []
    assert ledger.outcomes == {"OK": ledger.sent}


async def test_a_shadow_that_fails_changes_nothing_for_requests(feed, store, settings):
    store.publish(tiny_artifact("v2", seed=1, network_type=RaisesLater)[0])
    settings = with_options(settings, shadow={"version": "v2", "share": 1.0})
    ledger = Ledger(feed, {"v1": tiny_artifact("v1", seed=1)[1]})
    async with serving(settings) as (application, stub), ledger.load(stub, workers=2):
        while await metric(application, 'animora_shadow_samples_total{outcome="failed"}') < 20:
            await ledger.more(5)
        assert await metric(application, "animora_model_rollbacks_total") == 0
    assert ledger.wrong == []
    assert ledger.outcomes == {"OK": ledger.sent}
