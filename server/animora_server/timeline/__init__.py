"""Timelines: a user's ranked lists, made once, kept, and cut into pages that hide what must be hidden."""
