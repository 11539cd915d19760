"""Precomputing: the timelines of all users as one generation, ranked offline and swapped in at once."""
