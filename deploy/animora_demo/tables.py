"""What the demo's answers look like."""

from typing import Any

from rich.table import Table

SAME_FOR_ALL_POSTS = {"mlp_user", "bias"}  # terms that say nothing of why one post is before another


def posts_table(title: str, answer: dict[str, Any], captions: dict[int, str]) -> Table:
    """Posts by rank with their captions, and with what their terms add up to by part where there are any."""
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
    """Terms summed over the model's branches: what each part of a post does in all."""
    parts: dict[str, float] = {}
    for name, value in terms.items():
        if name not in SAME_FOR_ALL_POSTS:
            part = name.rpartition("_")[2]
            parts[part] = parts.get(part, 0.0) + value
    return parts


def origin(answer: dict[str, Any]) -> str:
    """What ordered an answer, in words."""
    model = f", model {answer['model_version']}" if answer["model_version"] else ""
    return f"by {answer['ranker']}{model}"
