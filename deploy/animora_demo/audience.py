"""Whose feeds the demo shows, and what the posts in them say."""

from dataclasses import dataclass

import asyncpg

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


@dataclass(frozen=True, slots=True)
class User:
    """Someone whose feed is shown, and what they liked last."""

    id: int
    liked: list[str]

    def story(self) -> str:
        """What a reader needs to judge the order."""
        if not self.liked:
            return "is new here."
        return "liked these last:\n" + "\n".join(f"  - {caption}" for caption in self.liked)


@dataclass(frozen=True, slots=True)
class DemoAudience:
    """Two busy users and a new one, and the newest posts' captions by id."""

    users: list[User]
    newest: dict[int, str]


async def find_audience(database_url: str, newest: int) -> DemoAudience:
    """The audience, with so many of the newest posts."""
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
    """Captions by post id."""
    connection = await asyncpg.connect(database_url)
    try:
        posts = await connection.fetch(CAPTIONS, post_ids)
    finally:
        await connection.close()
    return {row["id"]: row["caption"] for row in posts}
