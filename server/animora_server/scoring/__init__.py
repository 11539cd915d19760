"""What Rank and GetTimeline share: serving state, heuristic, transforms of scores, single-flight."""
