"""The command line of every peer's server: `server FOLDER --port PORT --workers WORKERS`."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True)
class Arguments:
    """Arguments of a peer's server.

    Attributes:
        folder: Input of PostRanker.
        port: Port to listen on.
        workers: Number of processes that rank.
    """

    folder: Path
    port: int
    workers: int

    @classmethod
    def parse(cls) -> Self:
        """Reads the command line; also works in child processes of a server."""
        parser = argparse.ArgumentParser()
        parser.add_argument("folder", type=Path)
        parser.add_argument("--port", type=int, required=True)
        parser.add_argument("--workers", type=int, required=True)
        return cls(**vars(parser.parse_args()))
