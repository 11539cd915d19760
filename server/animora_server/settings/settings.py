"""All sections together, and what holds between options of several."""

from pydantic import model_validator

from animora_server.settings.cache import CacheSettings
from animora_server.settings.catalog import CatalogSettings
from animora_server.settings.database import DatabaseSettings
from animora_server.settings.grpc import GrpcSettings
from animora_server.settings.http import HttpSettings
from animora_server.settings.log import LogSettings
from animora_server.settings.loopback import is_loopback
from animora_server.settings.models import ModelSettings
from animora_server.settings.precompute import PrecomputeSettings
from animora_server.settings.ranking import RankingSettings
from animora_server.settings.scorer import ScorerSettings
from animora_server.settings.section import Section
from animora_server.settings.timeline import TimelineSettings


class Settings(Section):
    """All options."""

    grpc: GrpcSettings = GrpcSettings()
    http: HttpSettings = HttpSettings()
    database: DatabaseSettings = DatabaseSettings()
    catalog: CatalogSettings = CatalogSettings()
    models: ModelSettings = ModelSettings()
    scorer: ScorerSettings = ScorerSettings()
    cache: CacheSettings = CacheSettings()
    ranking: RankingSettings = RankingSettings()
    timeline: TimelineSettings = TimelineSettings()
    precompute: PrecomputeSettings = PrecomputeSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _fit_together(self) -> "Settings":
        if not is_loopback(self.http.host) and not self.http.insecure:
            raise ValueError(
                f"http.host {self.http.host} is beyond loopback, and metrics and probes are plain HTTP: set "
                "http.insecure = true where nobody reaches the port who must not read them"
            )
        if self.http.port == self.grpc.port != 0:
            raise ValueError(f"http.port is grpc.port, {self.grpc.port}: each needs one of its own")
        for option, candidates in (
            ("ranking.max_candidates", self.ranking.max_candidates),
            ("timeline.max_candidates", self.timeline.max_candidates),
        ):
            if candidates > self.scorer.max_queue_rows:
                raise ValueError(
                    f"scorer.max_queue_rows is below {option}: the queue would never take a request of "
                    f"{candidates} candidates"
                )
        return self
