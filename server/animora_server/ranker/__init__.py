"""Decides the order of candidates: which count, who scores them, and what answers when the model cannot."""

from animora_server.ranker.ranker import CandidateRanker

__all__ = ["CandidateRanker"]
