"""Formats responses as tables and as JSON."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat

from rich.console import Console
from rich.table import Table

from animora_client.ranking import DropReason, RankedPost, Ranking
from animora_client.timeline import TimelinePage

Answer = Ranking | TimelinePage
Cells = Mapping[str, str]  # the cells of a post after its score, by heading

_REASONS: Mapping[DropReason, str] = {
    DropReason.EXCLUDED: "left out by request",
    DropReason.UNKNOWN: "not in the catalog",
    DropReason.DELETED: "deleted by its author",
    DropReason.BLOCKED: "its author has blocked the user, or is blocked by them",
    DropReason.SEEN: "the user has liked or commented on it",
    DropReason.OWN: "the user's own",
    DropReason.TOO_OLD: "older than the feed's window, or beyond the newest posts that are ranked",
    DropReason.OUTRANKED: "ranked, but not among the best",
    DropReason.OTHER: "unknown reason of a newer server",
}


def posts_table(
    console: Console, title: str, posts: Iterable[RankedPost], cells: Sequence[Cells], first: int = 1
) -> Table:
    """A table of posts, numbered from `first`.

    `cells` is parallel to `posts`, or empty. Each heading has a column if the console is wide enough; else
    all cells share one column.
    """
    rows = [(str(number), str(post), f"{score:.4f}") for number, (post, score) in enumerate(posts, first)]
    headings = list(dict.fromkeys(heading for of_post in cells for heading in of_post))
    table = _ranked(title)
    for heading in headings:
        # Over two lines, so that the model's eight terms fit into 100 characters.
        table.add_column(heading.replace("_", "\n", 1), justify="right", overflow="fold")
    for row, of_post in zip(rows, cells or [{}] * len(rows), strict=True):
        table.add_row(*row, *(of_post.get(heading, "") for heading in headings))
    if not headings or _width(console, table) <= console.width:
        return table
    table = _ranked(title)
    table.add_column("terms", overflow="fold")
    for row, of_post in zip(rows, cells, strict=True):
        # No spaces within a word, so that lines break between words.
        table.add_row(*row, " ".join(f"{heading}={value}" for heading, value in of_post.items()))
    return table


def term_cells(terms: Mapping[str, float], prefix: str = "") -> dict[str, str]:
    """Formats terms as cells."""
    return {f"{prefix}{name}": f"{value:+.3f}" for name, value in terms.items()}


def in_words(dropped_posts: Mapping[int, DropReason]) -> dict[int, str]:
    """The reason for each dropped post, in words."""
    return {post_id: _REASONS[reason] for post_id, reason in dropped_posts.items()}


def reasons_table(title: str, reasons: Mapping[int, str]) -> Table:
    """A table of posts and reasons."""
    table = Table(title=title, title_justify="left")
    table.add_column("post", justify="right", overflow="fold")
    table.add_column("reason", overflow="fold")
    for post_id, reason in reasons.items():
        table.add_row(str(post_id), reason)
    return table


def origin(answer: Answer) -> list[str]:
    """Ranker, model version, arm, cache status and degradation, as the parts of one line."""
    parts = [f"ranker {answer.ranker}"]
    if answer.model_version:
        parts.append(f"model {answer.model_version}")
    if answer.arm:
        parts.append(f"arm {answer.arm}")
    parts.append(f"cache {answer.cache}")
    if answer.degraded_reason is not None:
        parts.append(f"degraded: {answer.degraded_reason}")
    return parts


def as_json(user_id: int, answer: Answer, explanations: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """The JSON object of a response; `explanations` is parallel to the posts, or empty."""
    return {
        "user_id": user_id,
        "posts": [
            {"post_id": post_id, "score": score, **explanation}
            for (post_id, score), explanation in zip(answer, explanations or repeat({}), strict=False)
        ],
        "ranker": answer.ranker,
        "model_version": answer.model_version,
        "cache": answer.cache,
        "degraded_reason": answer.degraded_reason,
        "arm": answer.arm,
        "dropped_posts": [
            {"post_id": post_id, "reason": reason} for post_id, reason in answer.dropped_posts.items()
        ],
    }


def _ranked(title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in ("#", "post", "score"):
        table.add_column(heading, justify="right", overflow="fold")  # never truncate a number
    return table


def _width(console: Console, table: Table) -> int:
    """The width of a table in characters, without a limit."""
    return console.measure(table, options=console.options.update(max_width=10_000)).maximum
