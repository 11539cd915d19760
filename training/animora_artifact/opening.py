"""Opening the store that a path or URL names."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from animora_artifact.folder_store import FolderStore
from animora_artifact.package import SignatureCheck, SizeLimit
from animora_artifact.s3_url import S3Place
from animora_artifact.store import ModelStore


def open_store(url: str, check: SignatureCheck | None = None, limit: SizeLimit | None = None) -> ModelStore:
    """The store at a path, a `file://` or an `s3://` URL; nothing is asked of it yet.

    Args:
        url: Where; see docs/models.md for what may follow an S3 prefix.
        check: Whose signature a version must have to be read; None takes versions as they are.
        limit: What a version's files may have together to be read; None for no limit.

    Raises:
        ValueError: The URL cannot be used, or what its scheme needs is not installed.
    """
    place = parse_store_url(url)
    if isinstance(place, Path):
        return FolderStore(place, check, limit)
    try:
        # Only those who have a store in S3 install what it needs.
        from animora_artifact.s3_store import S3Store  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ValueError(
            "a model store in S3 needs the extra s3: pip install 'animora-ranking[s3]'"
        ) from error
    return S3Store(place, check, limit)


def parse_store_url(url: str) -> Path | S3Place:
    """The folder that a path or a `file://` URL names, or the place in S3 that an `s3://` URL names.

    Raises:
        ValueError: The URL cannot be used; the text says what to write, and holds no password.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3":
        return S3Place.parse(url)
    if parts.scheme == "file":
        beyond = parts.netloc not in {"", "localhost"} or parts.query or parts.fragment
        if beyond or not parts.path.startswith("/"):
            raise ValueError(
                "write file:///FOLDER, with an absolute path on this machine and nothing after it"
            )
        return Path(unquote(parts.path))
    if parts.scheme:
        raise ValueError(f"{parts.scheme}: is not supported, only a folder, a file:// or an s3:// URL is")
    return Path(url)
