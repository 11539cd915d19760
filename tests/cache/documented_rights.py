"""The rights of a Redis user, read from docs/operation.md."""

from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "operation.md"
_BLOCK = PAGE.read_text(encoding="utf-8").partition("```\nACL SETUSER")[2].partition("```")[0]
_PARTS = ["ACL SETUSER" + _BLOCK.partition("\n#")[0], *_BLOCK.split("\n#")[1:]]

# The line that an operator types, and its optional additions.
LINE = _PARTS[0].split()
SERVING, _MORE, CLUSTERED = ([word for word in part.split() if word.startswith("+")] for part in _PARTS)
PRECOMPUTING = [*SERVING, *_MORE]
