import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from animora_server.scoring.arms import CONTROL_ARM, Arms
from animora_server.scoring.serving_state import ServingState
from animora_server.settings import ExperimentSettings
from tests.support.arms import Fallbacks
from tests.support.catalogs import snapshot
from tests.support.models import FakeStateHolder

USERS = np.random.default_rng(5).integers(-(2**63), 2**63 - 1, 20_000).tolist()


def experiments(salt: str = "test", **arms: dict[str, object]) -> ExperimentSettings:
    return ExperimentSettings.model_validate({"salt": salt, "arms": arms})


def arms_of(settings: ExperimentSettings, users: list[int]) -> list[str]:
    arms = Arms(settings, Fallbacks())
    return [arms.of(user).name for user in users]


def state(*versions: str) -> ServingState:
    """A serving state in which these versions are loaded, and v1 is active."""
    holder = FakeStateHolder(snapshot({1: {}}))
    for version in (*versions, "v1"):
        holder.activate({1: 0.0}, version)
    return holder.latest


@pytest.mark.parametrize("share", [0, 0.5, 5, 50, 100])
def test_an_arm_has_its_share_of_the_users(share):
    names = arms_of(experiments(canary={"share": share, "offset": (100 - share) / 2}), USERS)
    expected, deviation = share / 100, (share / 100 * (1 - share / 100) / len(USERS)) ** 0.5
    assert names.count("canary") / len(USERS) == pytest.approx(expected, abs=5 * deviation)
    assert names.count("canary") + names.count("control") == len(USERS)


@given(st.floats(0, 50), st.floats(0, 50), st.floats(0, 50))
def test_growing_a_share_moves_users_from_control_into_the_arm_alone(share, growth, other):
    share, growth = sorted((share, growth))
    before, after = (
        arms_of(experiments(a={"share": size}, b={"share": other, "offset": 50}), USERS[:200])
        for size in (share, growth)
    )
    moved = {pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]}
    assert moved <= {("control", "a")}


def test_removing_an_arm_moves_its_users_alone():
    both = arms_of(experiments(a={"share": 30}, b={"share": 30, "offset": 50}), USERS)
    rest = arms_of(experiments(b={"share": 30, "offset": 50}), USERS)
    moved = {pair for pair in zip(both, rest, strict=True) if pair[0] != pair[1]}
    assert moved == {("a", "control")}


def test_a_user_has_the_same_arm_in_another_process():
    settings = experiments(a={"share": 30}, b={"share": 30, "offset": 50})
    program = (
        "from tests.scoring.test_arms import *\n"
        "print(*arms_of(experiments(a={'share': 30}, b={'share': 30, 'offset': 50}), USERS[:500]))"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert output.stdout.split() == arms_of(settings, USERS[:500])


def test_positions_never_change_from_release_to_release():
    # Else an upgrade would move users between arms while an experiment runs.
    arms = Arms(experiments(salt="animora", canary={"share": 5}), Fallbacks())
    positions = [round(arms.position(user), 6) for user in (0, 7, -1, 2**63 - 1)]
    assert positions == [96.053134, 4.829161, 80.567573, 42.933415]


def test_another_salt_draws_other_users():
    here, there = (arms_of(experiments(salt=salt, a={"share": 50}), USERS) for salt in ("x", "y"))
    both = sum(pair == ("a", "a") for pair in zip(here, there, strict=True))
    assert both / len(USERS) == pytest.approx(0.25, abs=0.03)


def test_an_arm_serves_its_users_by_its_version():
    arm = Arms(experiments(canary={"share": 100, "model_version": "v2"}), Fallbacks()).serving(state("v2"), 7)
    assert (arm.name, arm.model_version) == ("canary", "v2")


def test_an_arm_without_a_version_needs_none_to_be_loaded():
    fallbacks = Fallbacks()
    assert Arms(experiments(other={"share": 100}), fallbacks).serving(state(), 7).name == "other"
    assert fallbacks.seen == []


def test_control_serves_and_counts_the_users_of_an_arm_whose_version_is_not_loaded():
    fallbacks = Fallbacks()
    arms = Arms(experiments(canary={"share": 100, "model_version": "v2"}), fallbacks)
    assert arms.serving(state(), 7) is CONTROL_ARM
    arms.refuse(["v2"])
    assert arms.serving(state(), 7) is CONTROL_ARM
    assert fallbacks.seen == [("canary", "loading"), ("canary", "refused")]


def test_control_serves_the_users_of_an_arm_that_is_switched_off_until_it_is_on_again():
    fallbacks = Fallbacks()
    arms = Arms(experiments(canary={"share": 100}), fallbacks)
    arms.disable("canary", "scores shifted")
    assert arms.serving(state(), 7) is CONTROL_ARM
    assert arms.disabled == {"canary": "scores shifted"}
    assert fallbacks.seen == [("canary", "disabled")]
    arms.enable("canary")
    assert arms.serving(state(), 7).name == "canary"


def test_an_unknown_arm_cannot_be_switched_off():
    arms = Arms(experiments(canary={"share": 100}), Fallbacks())
    with pytest.raises(KeyError):
        arms.disable("control", "no reason")
