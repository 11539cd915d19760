"""Reads the pages of the server's HTTP port."""

import urllib.request

from tests.support.until import HANG_TIMEOUT


def get(port: int, path: str) -> str:
    """The text of a page. Raises HTTPError for an error status."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=HANG_TIMEOUT) as reply:
        return str(reply.read().decode())
