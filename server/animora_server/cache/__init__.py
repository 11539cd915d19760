"""What is kept in Redis: scores, timelines and generations of them; for the server, best effort."""

from animora_server.cache.generations import RedisGenerations
from animora_server.cache.keys import rank_key
from animora_server.cache.scores import RedisScores
from animora_server.cache.shared_redis import SharedRedis
from animora_server.cache.timelines import RedisTimelines
from animora_server.cache.watch import GenerationWatch

__all__ = [
    "GenerationWatch",
    "RedisGenerations",
    "RedisScores",
    "RedisTimelines",
    "SharedRedis",
    "rank_key",
]
