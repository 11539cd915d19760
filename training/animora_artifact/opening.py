"""Opens the model store that a path or URL names."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from animora_artifact.folder_store import FolderStore
from animora_artifact.package import SignatureCheck, SizeLimit
from animora_artifact.pointer import UNSIGNED, PointerKeys
from animora_artifact.s3_url import S3Place
from animora_artifact.store import ModelStore


def open_store(
    url: str,
    check: SignatureCheck | None = None,
    limit: SizeLimit | None = None,
    keys: PointerKeys = UNSIGNED,
) -> ModelStore:
    """Opens the store at a path, a `file://` or an `s3://` URL, without accessing it.

    Args:
        url: Path or URL; docs/models.md lists the options of an S3 URL.
        check: Signature check for reading versions; None accepts unsigned versions.
        limit: Maximum total size of a version's files; None for no limit.
        keys: The keys of ACTIVE; by default it is not signed.

    Raises:
        ValueError: The URL is invalid, or a package for its scheme is not installed.
    """
    place = parse_store_url(url)
    if isinstance(place, Path):
        return FolderStore(place, check, limit, keys)
    try:
        # obstore is an optional dependency.
        from animora_artifact.s3_store import S3Store  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ValueError(
            "a model store in S3 needs the extra s3: pip install 'animora-ranking[s3]'"
        ) from error
    return S3Store(place, check, limit, keys)


def parse_store_url(url: str) -> Path | S3Place:
    """Parses a path or `file://` URL to a folder, an `s3://` URL to a location in S3.

    Raises:
        ValueError: The URL is invalid; the text has no part of it that may be a password.
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
