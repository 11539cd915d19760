"""`animora-client timeline`: a user's feed, page by page, as tables or as JSON."""

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
from animora_client.cli.connecting import ServerOptions
from animora_client.cli.failures import told_plainly
from animora_client.cli.ids import read_ids, read_user
from animora_client.request import CachePolicy, TimelineOptions
from animora_client.timeline import Explanation, TimelinePage


@dataclass(frozen=True, slots=True)
class TimelineArguments:
    """Whose feed, and how much of it."""

    user: Annotated[int, Option(metavar="ID", parser=read_user, help="Whose feed.")]
    pages: Annotated[int | None, Option(help="Pages to print; 1, or as many as --limit takes.", min=1)] = None
    limit: Annotated[int, Option(help="Posts to print at most; 0 sets no limit.", min=0, max=2**31 - 1)] = 0
    page_size: Annotated[
        int, Option(help="Posts on a page at most; 0 leaves it to the server.", min=0, max=2**31 - 1)
    ] = 0
    page_token: Annotated[str, Option(metavar="TOKEN", help="Begin behind the page that named this.")] = ""
    explain: Annotated[bool, Option("--explain", help="Print the terms of each score.")] = False
    why: Annotated[str, Option(metavar="ID,ID,...", help="Say why these are not in the timeline.")] = ""
    include_seen: Annotated[
        bool, Option("--include-seen", help="Keep posts that the user has liked or commented on.")
    ] = False
    exclude: Annotated[str, Option(metavar="ID,ID,...", help="Leave out these posts.")] = ""
    cache: Annotated[CachePolicy, Option(help="How to use the server's cache.")] = CachePolicy.DEFAULT

    def asked_about(self) -> tuple[int, ...]:
        """The posts of `--why`.

        Raises:
            BadParameter: They are not ids.
        """
        return read_ids(self.why, "--why")

    def options(self) -> TimelineOptions:
        """The options of the requests; raises as `asked_about`."""
        return {
            "page_size": self.page_size,
            "page_token": self.page_token,
            "exclude_post_ids": read_ids(self.exclude, "--exclude"),
            "include_seen": self.include_seen,
            "cache_policy": self.cache,
            "explain": self.explain,
            "explain_post_ids": self.asked_about(),
        }

    def page_count(self) -> int | None:
        """Pages to print at most; None for all that the limit takes."""
        return self.pages or (None if self.limit else 1)


def timeline(
    arguments: TimelineArguments,
    connection: ServerOptions,
    json: Annotated[bool, Option("--json", help="Print a JSON object for each page, on a line.")] = False,
) -> None:
    """Print a user's feed, best first."""
    options = arguments.options()
    console = Console(highlight=False)
    with told_plainly(connection.target), connection.client() as client:
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
        if number == 1 and arguments.why:  # every page says the same
            console.print(reasons_table("asked about", _reasons(arguments.asked_about(), page)))
        console.print(_origin(page, explain=arguments.explain), soft_wrap=True, markup=False)
        printed, token = printed + len(page), page.next_page_token
    end = f"go on with --page-token {token}" if token else "this is the end of the timeline"
    console.print(end, soft_wrap=True, markup=False)


def _cells(explanation: Explanation) -> Cells:
    cells = term_cells(explanation.terms) | term_cells(explanation.reranking_terms, "rerank:")
    return cells | {"exploration": "yes"} if explanation.exploration else cells


def _reasons(asked_about: Iterable[int], page: TimelinePage) -> dict[int, str]:
    dropped = in_words(page.dropped_posts)
    return {post_id: dropped.get(post_id, "it is in the timeline") for post_id in asked_about}


def _origin(page: TimelinePage, *, explain: bool) -> str:
    """One line on where the page came from."""
    terms_lack = explain and len(page) > 0 and not page.explanations
    lack = ["no terms: the model that ranked this is no longer on the server"] if terms_lack else []
    return " · ".join([*origin(page), *lack])


def _as_json(user_id: int, page: TimelinePage) -> dict[str, object]:
    answer = as_json(user_id, page, [asdict(explanation) for explanation in page.explanations])
    return answer | {"next_page_token": page.next_page_token}
