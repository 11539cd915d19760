"""`animora-client rank`: ranks posts, as a table or as JSON."""

import json as json_format
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console
from typer import BadParameter, Option

from animora_client.cli.answers import as_json, in_words, origin, posts_table, reasons_table, term_cells
from animora_client.cli.failures import print_errors_plainly
from animora_client.cli.options import ServerOptions, read_ids, read_user
from animora_client.ranking import Ranking
from animora_client.request import CachePolicy, RankOptions


@dataclass(frozen=True, slots=True)
class RankArguments:
    """The options of the request."""

    user: Annotated[int, Option(metavar="ID", parser=read_user, help="The user to rank for.")]
    posts: Annotated[str, Option(metavar="ID,ID,...", help="The posts to rank.")] = ""
    posts_file: Annotated[
        str,
        Option(metavar="FILE", help="Read the posts from a file, or from standard input (-)."),
    ] = ""
    limit: Annotated[int, Option(help="Posts to print at most; 0 prints all.", min=0, max=2**31 - 1)] = 0
    explain: Annotated[bool, Option("--explain", help="Print the terms of each score.")] = False
    exclude_seen: Annotated[
        bool, Option("--exclude-seen", help="Leave out posts that the user has liked or commented on.")
    ] = False
    exclude: Annotated[str, Option(metavar="ID,ID,...", help="Leave out these posts.")] = ""
    cache: Annotated[CachePolicy, Option(help="How to use the server's cache.")] = CachePolicy.DEFAULT
    model: Annotated[str, Option(metavar="VERSION", help="A loaded version; the active one by default.")] = ""

    def post_ids(self) -> tuple[int, ...]:
        """The candidates.

        Raises:
            BadParameter: The posts are missing, given twice, or not ids.
        """
        if bool(self.posts) == bool(self.posts_file):
            raise BadParameter("give the posts with either --posts or --posts-file.")
        if self.posts:
            return read_ids(self.posts, "--posts")
        return read_ids(_read(self.posts_file), "--posts-file")

    def options(self) -> RankOptions:
        """The options of the request.

        Raises:
            BadParameter: --exclude holds a word that is not an id.
        """
        return {
            "limit": self.limit,
            "cache_policy": self.cache,
            "model_version": self.model,
            "exclude_seen": self.exclude_seen,
            "exclude_post_ids": read_ids(self.exclude, "--exclude"),
            "explain": self.explain,
        }


def rank(
    arguments: RankArguments,
    connection: ServerOptions,
    json: Annotated[bool, Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Rank posts for a user, best first."""
    post_ids, options = arguments.post_ids(), arguments.options()
    with print_errors_plainly(connection.target), connection.client() as client:
        ranking = client.rank(arguments.user, post_ids, **options)
    console = Console(highlight=False)
    if json:
        console.print_json(json_format.dumps(_as_json(arguments.user, ranking)))
    else:
        cells = [term_cells(terms) for terms in ranking.explanations]
        console.print(posts_table(console, f"user {arguments.user}", ranking, cells))
        if ranking.dropped_posts:
            console.print(reasons_table("dropped", in_words(ranking.dropped_posts)))
        console.print(_origin(ranking), soft_wrap=True, markup=False)


def _read(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadParameter(str(error), param_hint="--posts-file") from None


def _origin(ranking: Ranking) -> str:
    """One line with the source of the ranking and the counts of dropped posts."""
    counts = [f"{count} {reason}" for reason, count in asdict(ranking.dropped).items() if count]
    dropped = [f"dropped: {', '.join(counts)}"] if counts else []
    return " · ".join([*origin(ranking), *dropped])


def _as_json(user_id: int, ranking: Ranking) -> dict[str, object]:
    answer = as_json(user_id, ranking, [{"terms": terms} for terms in ranking.explanations])
    return answer | {"dropped": asdict(ranking.dropped)}
