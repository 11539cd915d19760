"""`animora-client timeline`: a user's timeline, page by page, as tables or as JSON."""

import json as json_format
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Annotated

from rich.console import Console
from typer import Option

from animora_client.cli.answers import (
    Cells,
    as_json,
    in_words,
    origin,
    posts_table,
    reasons_table,
    term_cells,
)
from animora_client.cli.failures import print_errors_plainly
from animora_client.cli.options import ServerOptions, read_ids, read_user
from animora_client.request import CachePolicy, TimelineOptions
from animora_client.timeline import Explanation, TimelinePage


@dataclass(frozen=True, slots=True)
class TimelineArguments:
    """The options of the request."""

    user: Annotated[int, Option(metavar="ID", parser=read_user, help="The user whose timeline to print.")]
    pages: Annotated[int | None, Option(help="Pages to print; 1, or as many as --limit takes.", min=1)] = None
    limit: Annotated[int, Option(help="Posts to print at most; 0 sets no limit.", min=0, max=2**31 - 1)] = 0
    page_size: Annotated[
        int, Option(help="Posts on a page at most; 0 leaves it to the server.", min=0, max=2**31 - 1)
    ] = 0
    page_token: Annotated[str, Option(metavar="TOKEN", help="Begin with the page of this token.")] = ""
    explain: Annotated[bool, Option("--explain", help="Print the terms of each score.")] = False
    why: Annotated[str, Option(metavar="ID,ID,...", help="Print why posts are not in the timeline.")] = ""
    include_seen: Annotated[
        bool, Option("--include-seen", help="Keep posts that the user has liked or commented on.")
    ] = False
    exclude: Annotated[str, Option(metavar="ID,ID,...", help="Leave out these posts.")] = ""
    cache: Annotated[CachePolicy, Option(help="How to use the server's cache.")] = CachePolicy.DEFAULT

    def explained_ids(self) -> tuple[int, ...]:
        """The posts of `--why`.

        Raises:
            BadParameter: A word is not an id.
        """
        return read_ids(self.why, "--why")

    def options(self) -> TimelineOptions:
        """The options of the requests; raises as `explained_ids`."""
        return {
            "page_size": self.page_size,
            "page_token": self.page_token,
            "exclude_post_ids": read_ids(self.exclude, "--exclude"),
            "include_seen": self.include_seen,
            "cache_policy": self.cache,
            "explain": self.explain,
            "explain_post_ids": self.explained_ids(),
        }

    def page_count(self) -> int | None:
        """Pages to print at most; None for as many as the limit needs."""
        return self.pages or (None if self.limit else 1)


def timeline(
    arguments: TimelineArguments,
    connection: ServerOptions,
    json: Annotated[bool, Option("--json", help="Print a JSON object for each page, on a line.")] = False,
) -> None:
    """Print a user's timeline, best first."""
    options = arguments.options()
    console = Console(highlight=False)
    with print_errors_plainly(connection.target), connection.client() as client:
        feed = client.timeline(arguments.user, limit=arguments.limit, **options)
        pages = islice(feed.pages(), arguments.page_count())
        if json:
            for page in pages:
                console.out(json_format.dumps(_as_json(arguments.user, page)))
        else:
            _print_tables(console, arguments, pages)


def _print_tables(console: Console, arguments: TimelineArguments, pages: Iterable[TimelinePage]) -> None:
    printed, token = 0, ""
    for number, page in enumerate(pages, 1):
        title = f"user {arguments.user}, page {number}"
        cells = [_cells(explanation) for explanation in page.explanations]
        console.print(posts_table(console, title, page, cells, first=printed + 1))
        if number == 1 and arguments.why:  # the same on every page
            console.print(reasons_table("explained", _reasons(arguments.explained_ids(), page)))
        console.print(_origin(page, explain=arguments.explain), soft_wrap=True, markup=False)
        printed, token = printed + len(page), page.next_page_token
    end = f"continue with --page-token {token}" if token else "end of the timeline"
    console.print(end, soft_wrap=True, markup=False)


def _cells(explanation: Explanation) -> Cells:
    cells = term_cells(explanation.terms) | term_cells(explanation.reranking_terms, "rerank:")
    return cells | {"exploration": "yes"} if explanation.exploration else cells


def _reasons(explained_ids: Iterable[int], page: TimelinePage) -> dict[int, str]:
    dropped = in_words(page.dropped_posts)
    return {post_id: dropped.get(post_id, "it is in the timeline") for post_id in explained_ids}


def _origin(page: TimelinePage, *, explain: bool) -> str:
    """One line with the source of the page."""
    lacks_terms = explain and len(page) > 0 and not page.explanations
    notes = ["no terms: the server no longer has the model that ranked this timeline"] if lacks_terms else []
    return " · ".join([*origin(page), *notes])


def _as_json(user_id: int, page: TimelinePage) -> dict[str, object]:
    answer = as_json(user_id, page, [asdict(explanation) for explanation in page.explanations])
    return answer | {"next_page_token": page.next_page_token}
