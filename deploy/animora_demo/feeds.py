"""The users whose feeds the demo shows, the captions of their posts, and the tables that it prints."""

from dataclasses import dataclass
from typing import Any

import asyncpg
from rich.table import Table

WARM_USERS = """
    SELECT user_id FROM animora.interactions GROUP BY user_id ORDER BY count(*) DESC, user_id LIMIT 2
"""
COLD_USER = """
    SELECT id FROM animora.users WHERE id NOT IN (SELECT user_id FROM animora.interactions)
    ORDER BY id LIMIT 1
"""
LIKED = """
    SELECT p.caption FROM animora.interactions i JOIN animora_app.posts p ON p.id = i.post_id
    WHERE i.user_id = $1 GROUP BY p.id, p.caption ORDER BY max(i.created_at) DESC LIMIT 3
"""
NEWEST_POSTS = """
    SELECT id, caption FROM animora_app.posts WHERE deleted_at IS NULL ORDER BY created_at DESC LIMIT $1
"""
CAPTIONS = "SELECT id, caption FROM animora_app.posts WHERE id = ANY($1)"
SAME_FOR_ALL_POSTS = {"mlp_user", "bias"}  # terms that are equal for all posts


@dataclass(frozen=True, slots=True)
class User:
    """A user, and the captions of the posts that the user liked last."""

    id: int
    liked: list[str]

    def story(self) -> str:
        """A description of the user's taste, to compare the ranking with."""
        if not self.liked:
            return "is new here."
        return "liked these last:\n" + "\n".join(f"  - {caption}" for caption in self.liked)


@dataclass(frozen=True, slots=True)
class DemoAudience:
    """Two active users and a new one, and the captions of the newest posts by id."""

    users: list[User]
    newest: dict[int, str]


async def find_audience(database_url: str, newest: int) -> DemoAudience:
    """Selects the users, and the `newest` newest posts."""
    connection = await asyncpg.connect(database_url)
    try:
        ids = [row["user_id"] for row in await connection.fetch(WARM_USERS)]
        ids.append(await connection.fetchval(COLD_USER))
        users = [User(user, [row["caption"] for row in await connection.fetch(LIKED, user)]) for user in ids]
        posts = await connection.fetch(NEWEST_POSTS, newest)
    finally:
        await connection.close()
    return DemoAudience(users, {row["id"]: row["caption"] for row in posts})


async def captions_of(database_url: str, post_ids: list[int]) -> dict[int, str]:
    """The captions of posts, by id."""
    connection = await asyncpg.connect(database_url)
    try:
        posts = await connection.fetch(CAPTIONS, post_ids)
    finally:
        await connection.close()
    return {row["id"]: row["caption"] for row in posts}


def posts_table(title: str, answer: dict[str, Any], captions: dict[int, str]) -> Table:
    """A table of ranked posts with captions, and with terms summed by part of the post, if there are any."""
    parts = [_parts(post.get("terms", {})) for post in answer["posts"]]
    table = Table(title=title, title_justify="left")
    table.add_column("post", justify="right")
    table.add_column("score", justify="right")
    for name in parts[0] if parts else ():
        table.add_column(f"by {name}", justify="right")
    table.add_column("caption")
    for post, of_post in zip(answer["posts"], parts, strict=True):
        terms = (f"{value:+.2f}" for value in of_post.values())
        table.add_row(str(post["post_id"]), f"{post['score']:.4f}", *terms, captions[post["post_id"]])
    return table


def _parts(terms: dict[str, float]) -> dict[str, float]:
    """Sums the terms of the model's branches for each part of a post."""
    parts: dict[str, float] = {}
    for name, value in terms.items():
        if name not in SAME_FOR_ALL_POSTS:
            part = name.rpartition("_")[2]
            parts[part] = parts.get(part, 0.0) + value
    return parts


def origin(answer: dict[str, Any]) -> str:
    """The ranker and the model version of a response, in words."""
    model = f", model {answer['model_version']}" if answer["model_version"] else ""
    return f"by {answer['ranker']}{model}"
