"""What Rank and GetTimeline share: the state they serve from, the heuristic, and transforms of scores."""
