import json

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from animora_server.command_line import cli
from animora_server.configuration import load_settings, options
from animora_server.precompute.shard import Shard

DAY = 86_400  # seconds


@pytest.fixture(scope="module")
def container(precompute_job):
    (container,) = precompute_job["template"]["spec"]["containers"]
    return container


@pytest.fixture(scope="module")
def arguments(container):
    """The command's options in the pod with index 0."""
    command, *arguments = [word.replace("$(JOB_COMPLETION_INDEX)", "0") for word in container["args"]]
    assert command == "precompute"
    program = get_command(cli)
    assert isinstance(program, TyperGroup)
    return program.commands[command].make_context(command, arguments).params


def test_the_pods_are_the_shards_of_one_generation(precompute_job, arguments):
    assert precompute_job["completionMode"] == "Indexed"
    assert Shard.parse(arguments["shard"]) == Shard(0, precompute_job["completions"])


def test_a_wrong_option_is_not_retried_and_other_failures_are(precompute_job, container):
    assert precompute_job["backoffLimitPerIndex"] > 0  # required by FailIndex, and requires the two below
    assert precompute_job["completionMode"] == "Indexed"
    assert precompute_job["template"]["spec"]["restartPolicy"] == "Never"
    (rule,) = precompute_job["podFailurePolicy"]["rules"]
    assert rule == {
        "action": "FailIndex",
        "onExitCodes": {"containerName": container["name"], "operator": "In", "values": [2]},
    }


def test_every_variable_is_an_option_and_the_settings_hold(container):
    plain = {variable["name"]: variable.get("value", "") for variable in container["env"]}
    assert set(plain) <= {option.variable for option in options()}
    settings = load_settings({"ANIMORA_GRPC_HOST": "0.0.0.0"} | plain, None)
    assert settings.precompute.workers == int(container["resources"]["requests"]["cpu"])


def test_an_unfinished_generation_expires_before_the_next_night(precompute_job):
    idle = DAY - precompute_job["activeDeadlineSeconds"]
    assert idle > load_settings({}, None).precompute.resume_within


def test_default_ttls_last_until_the_next_nights_generation(precompute_job):
    default = load_settings({}, None).timeline.precomputed_ttl
    assert default >= DAY + precompute_job["activeDeadlineSeconds"]


def test_timelines_are_fresh_until_the_next_nights_generation(precompute_job, container):
    environment = {variable["name"]: variable.get("value", "") for variable in container["env"]}
    settings = load_settings({"ANIMORA_GRPC_HOST": "127.0.0.1"} | environment, None)
    assert settings.timeline.precomputed_ttl >= DAY + precompute_job["activeDeadlineSeconds"]


def test_the_pod_is_unprivileged_and_writes_to_its_volumes_only(precompute_job, container):
    pod = precompute_job["template"]["spec"]
    assert pod["securityContext"]["runAsUser"] == 10001
    assert container["securityContext"]["readOnlyRootFilesystem"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert {"/tmp", "/var/lib/animora"} == mounted
    assert {"name": "ANIMORA_CATALOG_DIRECTORY", "value": "/var/lib/animora"} in container["env"]


def test_the_pod_uses_the_image_of_its_program(container, checkout):
    assert container["image"] == "animora-server"
    text = (checkout / "deploy/server.Dockerfile").read_text()
    entrypoint = next(line for line in text.splitlines() if line.startswith("ENTRYPOINT"))
    assert json.loads(entrypoint.removeprefix("ENTRYPOINT"))[-1] == "animora-server"
