"""What a Redis Cluster needs done otherwise than a single Redis."""

from typing import cast

from redis.asyncio import Redis, RedisCluster

# A key in each of so many random slots meets every primary of all but the largest clusters.
PROBES = 64


async def read(client: Redis | RedisCluster, keys: list[bytes]) -> list[bytes | None]:
    """The values of keys in one round trip, or in a Cluster one to each node, at the same time.

    Raises:
        REDIS_FAILED: There is no answer for some of the keys.
    """
    if isinstance(client, Redis):
        return cast(list[bytes | None], await client.mget(keys))
    slots: dict[int, list[int]] = {}
    for place, key in enumerate(keys):
        slots.setdefault(client.keyslot(key), []).append(place)
    pipeline = client.pipeline()
    for places in slots.values():
        # Its own mget refuses, since keys may lie in several slots; these do not.
        pipeline.execute_command("MGET", *(keys[place] for place in places))
    values: list[bytes | None] = [None] * len(keys)
    for places, reply in zip(slots.values(), await pipeline.execute(), strict=True):
        for place, value in zip(places, reply, strict=True):
            values[place] = value
    return values


def probe_keys(client: Redis | RedisCluster, prefix: bytes) -> list[bytes]:
    """Keys whose look-up shows whether all of Redis answers."""
    if isinstance(client, Redis):
        return [prefix + b"probe"]
    return [prefix + b"probe:%d" % number for number in range(PROBES)]
