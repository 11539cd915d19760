"""Mutates recorded messages: deterministic for a seed."""

import random
from collections.abc import Iterator, Sequence

MAX_MUTATIONS = 6
MAX_BYTES = 8192
# Bytes at the ends of what lengths, counts and variable-length integers can say.
EXTREMES = (
    b"\0", b"\xff", b"\x7f", b"\x80", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0" * 8,
    b"\xff" * 9 + b"\x01", b"\x80" * 12, b"-1", b"1e999", b"NaN", b"[" * 64, b"\xed\xa0\x80",
)  # fmt: skip


def mutations(seeds: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """Messages without end: the recorded ones first, then mutations of them and of their splices."""
    chance = random.Random(seed)
    yield from seeds
    while True:
        message = bytearray(chance.choice(seeds))
        for _ in range(chance.randint(1, MAX_MUTATIONS)):
            _mutate(message, seeds, chance)
        yield bytes(message[:MAX_BYTES])


def _mutate(message: bytearray, seeds: Sequence[bytes], chance: random.Random) -> None:
    start = chance.randint(0, len(message))
    end = min(len(message), start + chance.randint(1, 16))
    match chance.randint(0, 6):
        case 0 if message:
            message[min(start, len(message) - 1)] ^= 1 << chance.randint(0, 7)
        case 1:
            message[start:end] = chance.randbytes(end - start)
        case 2:
            del message[start:end]
        case 3:
            message[start:start] = message[start:end] * chance.randint(1, 20)
        case 4:
            extreme = chance.choice(EXTREMES)
            message[start : start + chance.choice((0, len(extreme)))] = extreme
        case 5:
            other = chance.choice(seeds)
            message[start:] = other[chance.randint(0, len(other)) :]
        case _:
            del message[start:]
