"""Scrapes a server's metrics."""

import asyncio
from dataclasses import dataclass
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.benchmarks.processes import Server


@dataclass(frozen=True, slots=True)
class Scraped:
    """The samples of one scrape."""

    samples: tuple[Sample, ...]

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples of a name that have all of some labels."""
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


async def scrape(server: Server) -> Scraped:
    """Reads a server's metrics.

    Raises:
        OSError: It does not answer.
    """
    text = await asyncio.to_thread(_read, f"http://127.0.0.1:{server.http_port}/metrics")
    return Scraped(
        tuple(sample for family in text_string_to_metric_families(text) for sample in family.samples)
    )


def _read(url: str) -> str:
    with urlopen(url, timeout=10) as response:
        text: str = response.read().decode()
    return text
