"""What the server's HTTP port shows."""

import urllib.request

from tests.support.until import HANG_TIMEOUT


def get(port: int, path: str) -> str:
    """A page's text; an HTTPError where the status is none of success."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=HANG_TIMEOUT) as reply:
        return str(reply.read().decode())
