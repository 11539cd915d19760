"""Scores in Redis, read through, best effort: no failure of Redis fails or delays a request."""

from animora_server.cache.keys import rank_key
from animora_server.cache.redis_scores import RedisScoreCache

__all__ = ["RedisScoreCache", "rank_key"]
