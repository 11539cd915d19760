"""S3 requests of a model store, with timeouts and with errors of this package."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import obstore
from obstore import exceptions
from obstore.store import S3Store as Bucket

from animora_artifact.errors import StoreUnavailable
from animora_artifact.s3_url import S3Place

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config

# Large objects are transferred in parts, so that the timeout of a request does not limit their size.
PART_BYTES = 8 << 20
PARTS_AT_ONCE = 4
MAX_RETRIES = 2
CONNECT_TIMEOUT = 5.0
_CODE = re.compile(r"<Code>(\w+)</Code>")
# Substrings of obstore's error texts and their meaning; its error classes differ between requests.
_REASONS = (
    # AWS's instance metadata address.
    (
        "169.254.",
        "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role",
    ),
    ("403 Forbidden", "access is denied: check the credentials and the bucket's policy"),
    ("401 Unauthorized", "access is denied: check the credentials and the bucket's policy"),
    ("ConnectError", "cannot connect: check endpoint_url, or AWS_ENDPOINT_URL"),
)


class ObjectNotFound(Exception):
    """The object does not exist."""


class PreconditionFailed(Exception):
    """The precondition of a conditional write failed."""


@dataclass(frozen=True, slots=True)
class Found:
    """An object.

    Attributes:
        content: The bytes; None if they exceed the caller's limit.
        tag: The ETag, for conditional writes.
    """

    content: bytes | None
    tag: str | None


class S3Bucket:
    """Objects of a bucket below a prefix. Every method raises StoreUnavailable if S3 fails."""

    def __init__(self, place: S3Place) -> None:
        timeout = timedelta(seconds=place.timeout)
        connect = timedelta(seconds=min(CONNECT_TIMEOUT, place.timeout))
        config: S3Config = {}
        if place.endpoint_url is not None:
            config["endpoint"] = place.endpoint_url
        if place.region is not None:
            config["region"] = place.region
        # Only an explicitly configured endpoint can be without TLS.
        client: ClientConfig = {"timeout": timeout, "connect_timeout": connect, "allow_http": True}
        self._place = place
        self._bucket = Bucket(
            place.bucket,
            prefix=place.prefix or None,
            config=config,
            client_options=client,
            retry_config={"max_retries": MAX_RETRIES, "retry_timeout": timeout},
        )

    def get(self, key: str, max_bytes: int) -> Found:
        """Reads an object, a large one in parts. Raises ObjectNotFound."""
        with self._failures():
            response = obstore.get(self._bucket, key)
            size, tag = response.meta["size"], response.meta["e_tag"]
            if size > max_bytes:
                return Found(None, tag)
            if size <= PART_BYTES:
                return Found(bytes(response.bytes()), tag)
            del response  # releases the connection
            starts = range(0, size, PART_BYTES)

            def part(start: int) -> memoryview:
                end = min(start + PART_BYTES, size)
                return memoryview(obstore.get_range(self._bucket, key, start=start, end=end))

            with ThreadPoolExecutor(PARTS_AT_ONCE, "s3") as pool:
                return Found(b"".join(pool.map(part, starts)), tag)

    def exists(self, key: str) -> bool:
        """Whether an object exists."""
        try:
            with self._failures():
                obstore.head(self._bucket, key)
        except ObjectNotFound:
            return False
        return True

    def put(self, key: str, content: bytes) -> None:
        """Writes an object unconditionally, a large one in parts."""
        with self._failures():
            obstore.put(self._bucket, key, content, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE)

    def create(self, key: str, content: bytes) -> None:
        """Creates a small object (If-None-Match). Raises PreconditionFailed if it exists."""
        with self._failures():
            obstore.put(self._bucket, key, content, mode="create")

    def replace(self, key: str, content: bytes, tag: str) -> None:
        """Replaces a small object with this ETag (If-Match). Raises PreconditionFailed if it has changed."""
        with self._failures():
            obstore.put(self._bucket, key, content, mode={"e_tag": tag})

    def folders(self) -> list[str]:
        """Names of the common prefixes up to the first slash."""
        with self._failures():
            found = obstore.list_with_delimiter(self._bucket)
        return [folder.rsplit("/", 1)[-1] for folder in found["common_prefixes"]]

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError) as error:
            raise PreconditionFailed from error
        except FileNotFoundError as error:
            if _code(error) == "NoSuchBucket":
                raise self._unavailable(error) from error
            raise ObjectNotFound from error
        except (exceptions.BaseError, OSError, NotImplementedError) as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(f"{self._place}: {self._reason(error)}")

    def _reason(self, error: Exception) -> str:
        """A description of an error without the library's text, which quotes requests and responses."""
        text, code = str(error), _code(error)
        if code == "NoSuchBucket":
            return "there is no such bucket"
        for words, reason in _REASONS:
            if words in text:
                return reason if code is None else f"{reason} (S3 answers {code})"
        if code is not None:
            return f"S3 answers {code}"
        return f"no answer within {self._place.timeout:g} s, or none that is S3's"


def _code(error: Exception) -> str | None:
    """S3's error code in a response, if there is one."""
    found = _CODE.search(str(error))
    return found.group(1) if found else None
