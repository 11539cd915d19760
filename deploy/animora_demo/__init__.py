"""The demo: the whole system on sample data, with embedded servers, in one command."""

from animora_demo.command import Demo
from animora_demo.sample import SampleFeed, sample_feed

__all__ = ["Demo", "SampleFeed", "sample_feed"]
