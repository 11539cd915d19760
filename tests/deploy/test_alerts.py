"""Each alert fires on its condition, over the exported series; none fires in normal operation."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from animora_server.observability.metrics import (
    DeviceProcessMetrics,
    Metrics,
    WorkerMetrics,
    process_registry,
)

RULES = "rules.yml"
PROGRAM = shutil.which("promtool")
AT = {"job": "animora", "instance": "host:9464"}
CALM = 100  # scrapes of 15 s before the change, and as many again before the alert is checked
# A series as `name{label="value",…}` without job and instance, and its values.
Series = dict[str, str]

HEALTHY: Mapping[str, float] = {
    "animora_background_age_seconds": 1,
    "animora_blocks_age_seconds": 1,
    "animora_catalog_age_seconds": 1,
    "animora_catalog_listening": 1,
    "animora_catalog_posts": 1000,
    "animora_device_serving": 1,
    "animora_generation_age_seconds": 3600,
    "animora_model_age_seconds": 3600,
    "animora_model_store_age_seconds": 1,
    "animora_serving": 1,
    "animora_workers_serving": 2,
}
RANK = 'grpc_type="unary",grpc_service="animora.ranking.v1.RankingService",grpc_method="Rank"'
OK_CALLS = f'grpc_server_handled_total{{{RANK},grpc_code="OK"}}'
OK_RANKINGS = 'animora_requests_total{method="Rank",code="OK",ranker="neucf"}'
TRAFFIC = {OK_CALLS: "0+1500x200", OK_RANKINGS: "0+1500x200"}


def then(before: float, after: float) -> str:
    """A series with a constant value, then another."""
    return f"{before}x{CALM} {after}x{CALM}"


def growing(step: float) -> str:
    """A counter at 0 that then grows with each scrape."""
    return f"0x{CALM} 0+{step}x{CALM}"


ONCE = f"0x{CALM * 2 - 20} 1x20"  # a counter's first increment, five minutes ago
CASES: dict[str, tuple[str, Series]] = {
    "the server cannot be scraped": ("AnimoraDown", {"up": then(1, 0)}),
    "a tenth of the calls fails": (
        "AnimoraErrors",
        {f'grpc_server_handled_total{{{RANK},grpc_code="UNAVAILABLE"}}': growing(150)},
    ),
    "calls are refused": (
        "AnimoraRefusing",
        {f'grpc_server_handled_total{{{RANK},grpc_code="RESOURCE_EXHAUSTED"}}': growing(1)},
    ),
    "calls take a second": (
        "AnimoraSlow",
        {
            f'grpc_server_handling_seconds_bucket{{{RANK},le="+Inf"}}': growing(100),
            f'grpc_server_handling_seconds_bucket{{{RANK},le="1.0"}}': growing(100),
            f'grpc_server_handling_seconds_bucket{{{RANK},le="0.25"}}': growing(1),
        },
    ),
    "the heuristic stands in": (
        "AnimoraDegraded",
        {'animora_degraded_total{reason="no_model"}': growing(150)},
    ),
    "health says NOT_SERVING": ("AnimoraNotServing", {"animora_serving": then(1, 0)}),
    "no worker answers": (
        "AnimoraNotServing",
        {"animora_serving": f"1x{CALM} stale", "animora_workers_serving": then(2, 0)},
    ),
    "the process ends again and again": (
        "AnimoraRestarts",
        {"process_start_time_seconds": f"0x{CALM} 1500x20 1800x20 2100x20 2400x20 2700x20"},
    ),
    "a background task fails": (
        "AnimoraBackgroundTaskFails",
        {'animora_background_age_seconds{task="model watcher"}': f"1x{CALM} 1+15x{CALM}"},
    ),
    "a background task meets a bug for the first time": (
        "AnimoraBackgroundBug",
        {'animora_background_failures_total{task="model watcher",kind="unexpected"}': ONCE},
    ),
    "blocks are not read": ("AnimoraBlocksStale", {"animora_blocks_age_seconds": f"1x{CALM} 1+15x{CALM}"}),
    "posts are not read": ("AnimoraCatalogStale", {"animora_catalog_age_seconds": f"1x{CALM} 1+15x{CALM}"}),
    "the views give no post": ("AnimoraCatalogEmpty", {"animora_catalog_posts": then(1000, 0)}),
    "notifications are not heard": ("AnimoraNotListening", {"animora_catalog_listening": then(1, 0)}),
    "the device fails once": ("AnimoraDeviceFault", {"animora_device_faults_total": ONCE}),
    "the shared device fails once": (
        "AnimoraSharedDeviceRestarts",
        {'animora_device_restarts_total{why="failed"}': ONCE},
    ),
    "the shared device does not come back": (
        "AnimoraSharedDeviceAway",
        {"animora_device_serving": then(1, 0)},
    ),
    "workers fail": (
        "AnimoraWorkersRestart",
        {'animora_worker_restarts_total{why="failed"}': f"0x{CALM * 2 - 20} 1x5 2x5 3x5 4x5"},
    ),
    "a version is refused for the first time": (
        "AnimoraModelRefused",
        {'animora_model_rejections_total{reason="digest"}': ONCE},
    ),
    "a version is refused before the first scrape": (
        "AnimoraModelRefused",
        {
            "process_start_time_seconds": f"_x{CALM * 2 - 20} {15 * (CALM * 2 - 20)}x20",
            'animora_model_rejections_total{reason="digest"}': f"_x{CALM * 2 - 20} 1x20",
        },
    ),
    "an ACTIVE is not signed by the key": (
        "AnimoraActiveRefused",
        {'animora_model_active_refusals_total{reason="signature"}': ONCE},
    ),
    "a version is rolled back": (
        "AnimoraModelRolledBack",
        {'animora_model_rollbacks_total{band="errors"}': ONCE},
    ),
    "the model store hangs": (
        "AnimoraModelStoreDown",
        {"animora_model_store_age_seconds": f"1x{CALM} 1+15x{CALM}"},
    ),
    "the model store was never readable": (
        "AnimoraModelStoreDown",
        {"animora_model_store_age_seconds": "Inf " * 200},
    ),
    "training stopped": ("AnimoraModelOld", {"animora_model_age_seconds": "700000x200"}),
    "Redis is away": ("AnimoraCacheDown", {"animora_cache_breaker_open": then(0, 1)}),
    "precomputing stopped": ("AnimoraGenerationOld", {"animora_generation_age_seconds": "100000+15x200"}),
    "precomputing stopped and its lists are gone": (
        "AnimoraGenerationOld",
        {"animora_generation_age_seconds": f"100000+15x{CALM} {'NaN ' * CALM}"},
    ),
}


@pytest.fixture(scope="module")
def exported():
    """Each series that a server, a parent and a device's process export at their start."""
    registries = [process_registry(), CollectorRegistry()]
    metrics = Metrics(registries[0], "animora.ranking.v1.RankingService", ("Rank",))
    loop = SimpleNamespace(name="model watcher", age=0.0, failures={"expected": 0, "unexpected": 0})
    metrics.background.watch(loop)
    for make in (WorkerMetrics, DeviceProcessMetrics):
        make(registries[1])
    return {
        series(sample.name, sample.labels)
        for registry in registries
        for family in registry.collect()
        for sample in family.samples
    }


def series(name: str, labels: Mapping[str, str]) -> str:
    """A series as promtool and this file write it."""
    inside = ",".join(f'{label}="{value}"' for label, value in labels.items())
    return f"{name}{{{inside}}}" if inside else name


def firing(exported: set[str], changes: Series, directory, tmp_path) -> set[str]:
    """The alerts that fire at the end."""
    assert set(changes) <= {*exported, "up"}, "the server exports no such series"
    calm = {name: f"{HEALTHY.get(name.partition('{')[0], 0.0)}x200" for name in exported}
    # Processes started long ago.
    all_series = calm | {"up": "1x200", "process_start_time_seconds": "-100000x200"} | TRAFFIC | changes
    text = json.dumps(
        {
            "rule_files": [str(directory / RULES)],
            "evaluation_interval": "15s",
            "tests": [
                {
                    "interval": "15s",
                    "input_series": [
                        {"series": with_target(name), "values": values} for name, values in all_series.items()
                    ],
                    "promql_expr_test": [
                        {
                            "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                            "eval_time": f"{15 * (CALM * 2 - 2)}s",
                            "exp_samples": [],
                        }
                    ],
                }
            ],
        }
    )
    (tmp_path / "test.yml").write_text(text)  # JSON is YAML
    done = subprocess.run(
        (str(PROGRAM), "test", "rules", "test.yml"), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    output = done.stdout + done.stderr
    if done.returncode == 0:
        return set()
    assert "got" in output, output
    return {part.partition('"')[0] for part in output.split('alertname="')[1:]}


def with_target(name: str) -> str:
    """A series of the scraped server."""
    target = ",".join(f'{label}="{value}"' for label, value in AT.items())
    return f"{name[:-1]},{target}}}" if name.endswith("}") else f"{name}{{{target}}}"


pytestmark = pytest.mark.skipif(PROGRAM is None, reason="promtool is not installed")


@pytest.fixture(scope="module")
def directory(checkout):
    return checkout / "deploy/prometheus"


@pytest.mark.parametrize("case", CASES)
def test_each_alert_fires_on_its_condition(case, exported, directory, tmp_path):
    alert, changes = CASES[case]
    fired = firing(exported, changes, directory, tmp_path)
    assert fired == {alert}


def test_no_alert_fires_in_normal_operation(exported, directory, tmp_path):
    assert firing(exported, {}, directory, tmp_path) == set()


def test_every_alert_has_a_case(directory):
    text = (directory / RULES).read_text()
    assert {line.split()[-1] for line in text.splitlines() if "- alert:" in line} == {
        alert for alert, _ in CASES.values()
    }
