"""The section `log`, all sections in one object, and the rules between options of several sections."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator

from animora_server.settings.data import CacheSettings, CatalogSettings, DatabaseSettings
from animora_server.settings.experiments import ExperimentSettings
from animora_server.settings.inference import ModelSettings, ScorerSettings
from animora_server.settings.network import (
    AdminSettings,
    AuthSettings,
    GrpcSettings,
    HttpSettings,
    is_loopback,
)
from animora_server.settings.ranking import PrecomputeSettings, RankingSettings, TimelineSettings
from animora_server.settings.rollout import RollbackSettings, ShadowSettings
from animora_server.settings.section import Section


class LogSettings(Section):
    """The log on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="lowest level that is logged"
    )
    format: Literal["json", "console"] = Field(
        default="json", description="one JSON object per line, or plain text for a terminal"
    )


class Settings(Section):
    """All options."""

    grpc: GrpcSettings = GrpcSettings()
    admin: AdminSettings = AdminSettings()
    http: HttpSettings = HttpSettings()
    auth: AuthSettings = AuthSettings()
    database: DatabaseSettings = DatabaseSettings()
    catalog: CatalogSettings = CatalogSettings()
    models: ModelSettings = ModelSettings()
    scorer: ScorerSettings = ScorerSettings()
    rollback: RollbackSettings = RollbackSettings()
    shadow: ShadowSettings = ShadowSettings()
    cache: CacheSettings = CacheSettings()
    ranking: RankingSettings = RankingSettings()
    timeline: TimelineSettings = TimelineSettings()
    experiments: ExperimentSettings = ExperimentSettings()
    precompute: PrecomputeSettings = PrecomputeSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _check_across_sections(self) -> "Settings":
        if not is_loopback(self.http.host) and not self.http.insecure:
            raise ValueError(
                f"http.host {self.http.host} is beyond loopback, and metrics and probes are plain HTTP: set "
                "http.insecure = true if the network keeps the port private"
            )
        if self.http.port == self.grpc.port != 0:
            raise ValueError(f"http.port is grpc.port, {self.grpc.port}: the two ports must differ")
        self._check_admin_port()
        for option, candidates in (
            ("ranking.max_candidates", self.ranking.max_candidates),
            ("timeline.max_candidates", self.timeline.max_candidates),
            *self._candidates_of_arms(),
        ):
            if candidates > self.scorer.max_queue_rows:
                raise ValueError(
                    f"scorer.max_queue_rows is below {option}: the queue would refuse every request of "
                    f"{candidates} candidates"
                )
        return self

    @property
    def kept_versions(self) -> frozenset[str]:
        """The versions that stay on the device beside the active one: those of arms, and the shadow's."""
        return self.experiments.versions | ({self.shadow.version} - {""})

    def _check_admin_port(self) -> None:
        if not self.admin.enabled:
            return
        if not self.models.store:
            raise ValueError("admin.enabled needs models to list and activate: set models.store")
        for section, port in (("grpc", self.grpc.port), ("http", self.http.port)):
            if self.admin.port == port != 0:
                raise ValueError(f"admin.port is {section}.port, {port}: the two ports must differ")
        if not is_loopback(self.admin.host) and self.grpc.tls_certificate is None and not self.admin.insecure:
            raise ValueError(
                f"admin.host {self.admin.host} is beyond loopback and TLS is off: set grpc.tls_certificate "
                "and grpc.tls_key, or admin.insecure = true"
            )

    @model_validator(mode="after")
    def _check_kept_versions(self) -> "Settings":
        versions = self.kept_versions
        if self.experiments.versions and not self.models.store:
            raise ValueError("experiments.arms: a model_version needs models.store, the store that has it")
        if versions and not self.models.store:
            raise ValueError("shadow.version needs models.store, the store that has it")
        if len(versions) >= self.models.resident:
            raise ValueError(
                f"models.resident is {self.models.resident}: the active version and the {len(versions)} that "
                f"experiments.arms and shadow.version name need {len(versions) + 1} or more"
            )
        return self

    def _candidates_of_arms(self) -> Iterator[tuple[str, int]]:
        """The option `max_candidates` of each arm, with its name. Raises ValueError for an arm's mistake."""
        for name, arm in self.experiments.arms.items():
            try:
                timeline = arm.applied_to(self.timeline)
            except ValueError as error:
                raise ValueError(f"experiments.arms.{name}.{error}") from error
            yield f"experiments.arms.{name}.timeline.max_candidates", timeline.max_candidates
