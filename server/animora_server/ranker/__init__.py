"""Rank: filters candidates, has the model score them, and orders them; the heuristic is the fallback."""

from animora_server.ranker.ranker import CandidateRanker

__all__ = ["CandidateRanker"]
