"""`animora rank`: posts in order, as a table or as JSON."""

import json as json_format
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.table import Table
from typer import BadParameter, Option

from animora_client.cli.connecting import ConnectionOptions
from animora_client.cli.failures import told_plainly
from animora_client.ranking import Ranking
from animora_client.request import CachePolicy, RankOptions


def _ids(text: str, option: str) -> tuple[int, ...]:
    """Ids between commas or white space."""
    return tuple(_id(word, option) for word in text.replace(",", " ").split())


def _id(word: str, option: str) -> int:
    try:
        number = int(word)
    except ValueError:
        raise BadParameter(f"{word[:40]!r} is not an integer.", param_hint=option) from None
    if not -(2**63) <= number < 2**63:
        raise BadParameter(f"{word[:40]} does not fit 64 bits.", param_hint=option)
    return number


def _user_id(word: str) -> int:
    return _id(word, "--user")


@dataclass(frozen=True, slots=True)
class RankArguments:
    """What to rank and how."""

    user: Annotated[int, Option(metavar="ID", parser=_user_id, help="Whose taste counts.")]
    posts: Annotated[str, Option(metavar="ID,ID,...", help="The posts to order.")] = ""
    posts_file: Annotated[
        str,
        Option(metavar="FILE", help="Read them from a file instead, or from standard input (-)."),
    ] = ""
    limit: Annotated[int, Option(help="Print the best so many; 0 prints all.", min=0, max=2**31 - 1)] = 0
    explain: Annotated[bool, Option("--explain", help="Print the terms of each score.")] = False
    exclude_seen: Annotated[
        bool, Option("--exclude-seen", help="Leave out posts that the user has liked or commented on.")
    ] = False
    exclude: Annotated[str, Option(metavar="ID,ID,...", help="Leave out these posts.")] = ""
    cache: Annotated[CachePolicy, Option(help="How to use the server's cache.")] = CachePolicy.DEFAULT
    model: Annotated[str, Option(metavar="VERSION", help="A resident model; the active one by default.")] = ""

    def post_ids(self) -> tuple[int, ...]:
        """The candidates.

        Raises:
            BadParameter: They are missing, given twice, or not ids.
        """
        if bool(self.posts) == bool(self.posts_file):
            raise BadParameter("give the posts with either --posts or --posts-file.")
        if self.posts:
            return _ids(self.posts, "--posts")
        return _ids(_read(self.posts_file), "--posts-file")

    def options(self) -> RankOptions:
        """The options of the request.

        Raises:
            BadParameter: What to exclude is not ids.
        """
        return {
            "limit": self.limit,
            "cache_policy": self.cache,
            "model_version": self.model,
            "exclude_seen": self.exclude_seen,
            "exclude_post_ids": _ids(self.exclude, "--exclude"),
            "explain": self.explain,
        }


def rank(
    arguments: RankArguments,
    connection: ConnectionOptions,
    json: Annotated[bool, Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Order posts for a user, best first."""
    post_ids, options = arguments.post_ids(), arguments.options()
    with told_plainly(connection.target), connection.client() as client:
        ranking = client.rank(arguments.user, post_ids, **options)
    console = Console(highlight=False)
    if json:
        console.print_json(json_format.dumps(_as_json(arguments.user, ranking)))
    else:
        console.print(_table(arguments.user, ranking))
        console.print(_origin(ranking), soft_wrap=True, markup=False)


def _read(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadParameter(str(error), param_hint="--posts-file") from None


def _table(user_id: int, ranking: Ranking) -> Table:
    terms = list(ranking.explanations[0]) if ranking.explanations else []
    table = Table(title=f"user {user_id}", title_justify="left")
    for heading in ("#", "post", "score", *terms):
        table.add_column(heading, justify="right")
    for index, (post_id, score) in enumerate(ranking):
        values = [f"{ranking.explanations[index].get(term, 0.0):+.4f}" for term in terms]
        table.add_row(str(index + 1), str(post_id), f"{score:.4f}", *values)
    return table


def _origin(ranking: Ranking) -> str:
    """One line on where the order came from and what is missing."""
    parts = [f"ranker {ranking.ranker}"]
    if ranking.model_version:
        parts.append(f"model {ranking.model_version}")
    parts.append(f"cache {ranking.cache}")
    if ranking.degraded_reason is not None:
        parts.append(f"degraded: {ranking.degraded_reason}")
    reasons = [f"{count} {reason}" for reason, count in asdict(ranking.dropped).items() if count]
    if reasons:
        parts.append(f"dropped: {', '.join(reasons)}")
    return " · ".join(parts)


def _as_json(user_id: int, ranking: Ranking) -> dict[str, object]:
    posts: list[dict[str, object]] = [{"post_id": post_id, "score": score} for post_id, score in ranking]
    for post, terms in zip(posts, ranking.explanations, strict=False):
        post["terms"] = terms
    return {
        "user_id": user_id,
        "posts": posts,
        "ranker": ranking.ranker,
        "model_version": ranking.model_version,
        "cache": ranking.cache,
        "degraded_reason": ranking.degraded_reason,
        "dropped": asdict(ranking.dropped),
    }
