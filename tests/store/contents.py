"""The content of a snapshot in a form that can be compared."""

from typing import Any

from animora_server.catalog import CatalogSnapshot, History

USERS = 20  # of the fixture `database`


def entries(history: History) -> list[tuple[int, int, float]]:
    """Post id, kind and time of each entry."""
    return list(zip(history.post_ids.tolist(), history.kinds.tolist(), history.times.tolist(), strict=True))


def content(snapshot: CatalogSnapshot) -> tuple[Any, ...]:
    """Posts, counts, the feed, seen posts, histories and relations, independent of rows."""
    posts = {}
    for post_id, row in zip(snapshot.index.ids.tolist(), snapshot.index.values.tolist(), strict=True):
        image, caption = snapshot.embeddings.read(row, row + 1)
        posts[post_id] = (
            snapshot.author_ids[row], snapshot.created_at[row], snapshot.deleted[row],
            snapshot.interactions[row], snapshot.fingerprints[row],
            image.any() and image.tolist(), caption.any() and caption.tolist(),
        )  # fmt: skip
    users = range(1, USERS + 1)
    return (
        posts,
        snapshot.max_interactions,
        sorted(
            zip(
                snapshot.feed.created_at.tolist(), snapshot.post_ids[snapshot.feed.rows].tolist(), strict=True
            )
        ),
        {user: snapshot.seen_posts(user).tolist() for user in users},
        {user: entries(snapshot.history_of(user)) for user in users},
        {user: snapshot.related_authors(user).tolist() for user in users},
    )
