import re
import shutil
import subprocess

import pytest
import yaml
from prometheus_client import CollectorRegistry

from animora_server.observability.metrics import DeviceProcessMetrics, Metrics, WorkerMetrics


@pytest.fixture(scope="module")
def directory(checkout):
    return checkout / "deploy/prometheus"


@pytest.fixture(scope="module")
def configuration(directory):
    return yaml.safe_load((directory / "prometheus.yml").read_text())


@pytest.fixture(scope="module")
def alerts(directory):
    groups = yaml.safe_load((directory / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.fixture(scope="module")
def instruments():
    """The server's families, by name."""
    metrics = Metrics(CollectorRegistry(), "animora.ranking.v1.RankingService", ("Rank",))
    WorkerMetrics(metrics.registry)
    DeviceProcessMetrics(metrics.registry)
    return {family.name: family for family in metrics.registry.collect()}


def family_of(series):
    """The family's name: a counter's and a histogram's series have a suffix."""
    return re.sub(r"_(total|bucket|sum|count)$", "", series)


def test_the_rule_files_exist(configuration, directory):
    assert configuration["rule_files"]
    assert all((directory / name).is_file() for name in configuration["rule_files"])


def test_prometheus_scrapes_the_server_of_the_compose_file(configuration, compose):
    (job,) = configuration["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    host, _, port = target.partition(":")
    assert host in compose["services"]
    assert f"127.0.0.1:{port}:{port}" in compose["services"][host]["ports"]


def test_alerts_use_metrics_and_labels_that_the_server_exports(alerts, instruments):
    for alert in alerts:
        for series, matchers in re.findall(r"\b((?:animora|grpc)_[a-z_]+)(?:\{([^}]*)\})?", alert["expr"]):
            if series in {"grpc_code", "grpc_method"}:  # labels
                continue
            family = instruments[family_of(series)]
            assert (series == family.name) == (family.type == "gauge"), series
            if family.samples:
                labels = set(re.findall(r"(\w+)=", matchers))
                assert labels <= {name for sample in family.samples for name in sample.labels}, series


def test_alerts_have_unique_names_a_severity_and_a_description(alerts):
    names = [alert["alert"] for alert in alerts]
    assert len(set(names)) == len(names)
    for alert in alerts:
        assert alert["labels"]["severity"] in {"page", "ticket"}
        assert "$labels.instance" in alert["annotations"]["summary"]


def test_the_alert_on_an_old_generation_matches_the_ttl_of_the_nightly_job(alerts, precompute_job):
    (container,) = precompute_job["template"]["spec"]["containers"]
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    (alert,) = (alert for alert in alerts if alert["alert"] == "AnimoraGenerationOld")
    seconds = set(re.findall(r"<= (\d+)|> (\d+)", alert["expr"]))
    assert {number for numbers in seconds for number in numbers if number} == {
        environment["ANIMORA_TIMELINE_PRECOMPUTED_TTL"]
    }


@pytest.mark.parametrize("arguments", [["config", "prometheus.yml"], ["rules", "rules.yml"]])
def test_promtool_accepts_the_files(directory, arguments):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    result = subprocess.run(
        [promtool, "check", *arguments], cwd=directory, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
