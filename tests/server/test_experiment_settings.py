"""The section `experiments`: how arms are written, and which mistakes are refused."""

import json
from pathlib import Path

import pytest

from animora_server.configuration import describe, load_settings
from animora_server.errors import ConfigurationError
from animora_server.settings import Settings
from animora_server.settings.experiments import ARM_TIMELINE_OPTIONS
from animora_server.timeline.store import TIMELINE_SETTINGS

STORE = '[models]\nstore = "/models"\n'
CANARY = "[experiments.arms.canary]\nshare = 5\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "animora.toml"


def loaded(file: Path, text: str) -> Settings:
    file.write_text(text)
    return load_settings({}, file)


def refused(file: Path, text: str) -> str:
    with pytest.raises(ConfigurationError) as error:
        loaded(file, text)
    return str(error.value).replace(f" in {file}", "")


def test_arms_are_tables_of_the_file_or_json_in_the_variable(file):
    text = 'model_version = "v2"\ntimeline = { recency_weight = 0.3, include_own = true }\n'
    settings = loaded(file, STORE + CANARY + text)
    arm = {"share": 5, "model_version": "v2", "timeline": {"recency_weight": 0.3, "include_own": True}}
    environ = {"ANIMORA_MODELS_STORE": "/models", "ANIMORA_EXPERIMENTS_ARMS": json.dumps({"canary": arm})}
    assert load_settings(environ, None) == settings
    assert settings.experiments.arms["canary"].applied_to(settings.timeline).recency_weight == 0.3


def test_the_description_of_arms_can_be_loaded(file):
    text = STORE + CANARY + 'model_version = "v2"\ntimeline = { recency_weight = 0.3, include_own = true }\n'
    settings = loaded(file, text)
    assert loaded(file, describe(settings)) == settings


def test_an_arm_may_set_what_shapes_a_timeline_but_not_its_room_in_redis():
    assert set(TIMELINE_SETTINGS) - set(ARM_TIMELINE_OPTIONS) == {"max_bytes"}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[experiments.arms.canary]\n", "experiments.arms.canary.share: Field required"),
        (
            CANARY + "shar = 5\n",
            "experiments.arms.canary.shar: no such option; did you mean experiments.arms.canary.share?",
        ),
        (
            "[experiments.arms.a]\nshare = 101\n",
            "experiments.arms.a.share: Input should be less than or equal to 100",
        ),
        (
            "[experiments.arms.a]\nshare = 60\n[experiments.arms.b]\nshare = 50\n",
            "experiments.arms: the shares add up to 110 percent: at most 100 are there",
        ),
        (
            "[experiments.arms.a]\nshare = 10\n[experiments.arms.b]\nshare = 20\noffset = 5\n",
            "experiments.arms: b: its users begin at 5 percent, where those of a end at 10: set its offset "
            "to 10 or above",
        ),
        (
            "[experiments.arms.a]\nshare = 10\noffset = 95\n",
            "experiments.arms: a: offset 95 and share 10 end at 105 percent, above 100: lower the offset",
        ),
        (
            "[experiments.arms.control]\nshare = 10\n",
            "experiments.arms: 'control' cannot be the name of an arm: take 1 to 32 lower-case letters, "
            "digits, - and _, beginning with a letter; control are the users of no arm",
        ),
        (
            "".join(f"[experiments.arms.a{number}]\nshare = 0\n" for number in range(9)),
            "experiments.arms: there are 9 arms: at most 8 can be told apart in the metrics",
        ),
        (
            CANARY + "timeline = { ttl = 5 }\n",
            f"experiments.arms.canary.timeline: ttl cannot differ by arm: set any of "
            f"{', '.join(ARM_TIMELINE_OPTIONS)}",
        ),
        (
            CANARY + "timeline = { recency_weight = 2 }\n",
            "experiments.arms.canary.timeline.recency_weight: Input should be less than or equal to 1",
        ),
        (
            CANARY + "timeline = { recency_weight = 0.5 }\n[timeline]\npopularity_weight = 0.6\n",
            "experiments.arms.canary.timeline: recency_weight + popularity_weight must be at most 1",
        ),
        (
            CANARY + "timeline = { max_candidates = 20_000 }\n[scorer]\nmax_queue_rows = 10_000\n",
            "scorer.max_queue_rows is below experiments.arms.canary.timeline.max_candidates: the queue would "
            "refuse every request of 20000 candidates",
        ),
        (
            CANARY + 'model_version = "v2"\n',
            "experiments.arms: a model_version needs models.store, the store that has it",
        ),
        (
            STORE + CANARY + 'model_version = "v2"\n[experiments.arms.b]\nshare = 5\noffset = 50\n'
            'model_version = "v3"\n',
            "models.resident is 2: the active version and the 2 that experiments.arms and shadow.version "
            "name need 3 or more",
        ),
    ],
)
def test_a_mistake_in_an_arm_is_refused_with_its_name(file, text, error):
    assert refused(file, text) == error


@pytest.mark.parametrize("version", ["../v1", "v1/..", ".hidden", "a" * 65])
def test_a_version_that_no_store_can_have_is_refused(file, version):
    assert refused(file, STORE + CANARY + f'model_version = "{version}"\n').startswith(
        "experiments.arms.canary.model_version: "
    )


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ('{"canary": {"share": 5', 'ANIMORA_EXPERIMENTS_ARMS: must be JSON such as {"NAME": {"share": 5}}'),
        ("5", 'ANIMORA_EXPERIMENTS_ARMS: must be JSON such as {"NAME": {"share": 5}}'),
        (
            '{"canary": {"share": -5}}',
            "ANIMORA_EXPERIMENTS_ARMS: canary.share: Input should be greater than or equal to 0",
        ),
        (
            '{"canary": {"share": true}}',
            "ANIMORA_EXPERIMENTS_ARMS: canary.share: must be a number, not true or false",
        ),
    ],
)
def test_a_mistake_in_the_variable_is_refused_with_its_name(value, error):
    with pytest.raises(ConfigurationError) as mistake:
        load_settings({"ANIMORA_EXPERIMENTS_ARMS": value}, None)
    assert str(mistake.value) == error
