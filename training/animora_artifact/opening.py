"""Opening the store that a path or URL names."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from animora_artifact.folder_store import FolderStore
from animora_artifact.package import SignatureCheck, SizeLimit
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
    parts = urlsplit(url)
    if parts.scheme in ("", "file"):
        return FolderStore(Path(unquote(parts.path) if parts.scheme else url), check, limit)
    if parts.scheme != "s3":
        raise ValueError(f"model store {url!r}: only a folder, a file:// or an s3:// URL is supported")
    try:
        # Only those who have a store in S3 install what it needs.
        from animora_artifact.s3_store import S3Store  # noqa: PLC0415
        from animora_artifact.s3_url import S3Place  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ValueError(
            "a model store in S3 needs the extra s3: pip install 'animora-ranking[s3]'"
        ) from error
    return S3Store(S3Place.parse(url), check, limit)
