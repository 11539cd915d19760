"""The heuristic: popularity and recency. It ranks cold users and is the fallback of the model.

    value = a * popularity + (1 - a) * recency
    popularity = log1p(likes + comments) / log1p(the highest such sum), 0 where that is 0
    recency = exp(-age / scale), where a negative age counts as 0

The highest sum is that of all posts that are not deleted. Both parts, and so the value, are in [0, 1].
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from animora_server.catalog import CatalogSnapshot
from animora_server.settings import RankingSettings
from animora_server.types import DoubleArray, FloatArray, IntArray

TERMS = ("popularity", "recency")


@dataclass(frozen=True, slots=True)
class Heuristic:
    """The formula's constants.

    Attributes:
        popularity_weight: a, in [0, 1].
        recency_scale: Seconds after which recency has fallen to 1/e.
    """

    popularity_weight: float = 0.6
    recency_scale: float = 6 * 3600.0

    @classmethod
    def of(cls, settings: RankingSettings) -> Self:
        """The formula that the options say."""
        return cls(settings.popularity_weight, settings.recency_scale_hours * 3600)

    def values(self, snapshot: CatalogSnapshot, rows: IntArray, now: float) -> FloatArray:
        """The values float32 (m) of the posts at rows int64 (m); see `terms`."""
        return np.asarray(self.terms(snapshot, rows, now).sum(axis=1), np.float32)

    def terms(self, snapshot: CatalogSnapshot, rows: IntArray, now: float) -> DoubleArray:
        """The two summands of each value.

        Args:
            snapshot: The catalog snapshot.
            rows: int64 (m), the posts' rows in it.
            now: Unix time in seconds.

        Returns:
            float64 (m, 2): weighted popularity and weighted recency; the sum of a row is the value.
        """
        terms = np.empty((len(rows), 2))
        terms[:, 0] = self.popularity_weight * self.popularity(snapshot, rows)
        terms[:, 1] = (1 - self.popularity_weight) * self.recency(snapshot, rows, now)
        return terms

    def popularity(self, snapshot: CatalogSnapshot, rows: IntArray) -> DoubleArray:
        """Unweighted popularity float64 (m) of the posts at rows int64 (m)."""
        if not snapshot.max_interactions:
            return np.zeros(len(rows))
        popularity = np.log1p(snapshot.interactions[rows]) / np.log1p(snapshot.max_interactions)
        return np.asarray(np.minimum(popularity, 1.0))

    def recency(self, snapshot: CatalogSnapshot, rows: IntArray, now: float) -> DoubleArray:
        """Unweighted recency float64 (m) of the posts at rows int64 (m), at a Unix time in seconds."""
        age = np.maximum(now - snapshot.created_at[rows], 0.0)
        return np.asarray(np.exp(-age / self.recency_scale))
