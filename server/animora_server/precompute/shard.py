"""Shards: disjoint parts of the users, so that several processes can build one generation."""

import re
from dataclasses import dataclass
from typing import Self

import numpy as np

from animora_server.errors import ConfigurationError
from animora_server.types import BoolArray, IntArray


@dataclass(frozen=True, slots=True)
class Shard:
    """Shard `index`, from 0, of `count`."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads "i/n".

        Raises:
            ConfigurationError: The text has another form, or i is not in [0, n).
        """
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if match is None or int(match[1]) >= int(match[2]):
            raise ConfigurationError(f"--shard: {text!r} is not i/n with i from 0 to n - 1, such as 0/8")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def holds(self, user_ids: IntArray) -> BoolArray:
        """Which users int64 (n) belong to this shard: bool (n).

        It depends on the id alone, so that all processes agree. The id is hashed (splitmix64's finaliser),
        since ids may have a pattern, such as all being even.
        """
        mixed = user_ids.astype(np.uint64)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.equal((mixed ^ (mixed >> np.uint64(31))) % np.uint64(self.count), self.index)
