"""An observer of a run."""


class Watch:
    """Records the progress of a run; see job.RunObserver."""

    def __init__(self):
        self.plan, self.users, self.chunks, self.swaps = None, 0, [], 0

    def planned(self, plan, users):
        self.plan, self.users = plan, users

    def advanced(self, chunk):
        self.chunks.append(chunk)

    def swapped(self):
        self.swaps += 1
