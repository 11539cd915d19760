"""The cache in Redis: scores, ranked timelines and generations. For a server it is best effort."""

from animora_server.cache.generation_watch import GenerationWatch
from animora_server.cache.redis_cache import RedisCache
from animora_server.cache.score_codec import rank_key
from animora_server.cache.scores import RedisScores
from animora_server.cache.timelines import RedisTimelineStore

__all__ = [
    "GenerationWatch",
    "RedisCache",
    "RedisScores",
    "RedisTimelineStore",
    "rank_key",
]
