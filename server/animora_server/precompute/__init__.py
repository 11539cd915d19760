"""Precompute: ranks the timelines of all users as one generation, and makes it current in one swap."""
