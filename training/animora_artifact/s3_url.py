"""Parses `s3://bucket/prefix` URLs with options in the query."""

import math
import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import parse_qsl, unquote, urlsplit

OPTIONS = ("endpoint_url", "region", "timeout")
DEFAULT_TIMEOUT = 30.0
_BUCKET = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*"
)  # old buckets and other providers allow more than AWS does now


@dataclass(frozen=True, slots=True)
class S3Place:
    """Location of a store in S3. Unset values come from AWS's environment variables.

    Attributes:
        bucket: The bucket.
        prefix: Prefix of all keys, without slashes around; may be empty.
        endpoint_url: Endpoint other than AWS's; None takes AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL.
        region: None takes AWS_REGION or AWS_DEFAULT_REGION.
        timeout: Timeout of a request in seconds, its body included.
    """

    bucket: str
    prefix: str
    endpoint_url: str | None = None
    region: str | None = None
    timeout: float = DEFAULT_TIMEOUT

    @classmethod
    def parse(cls, url: str) -> Self:
        """Reads a URL.

        Raises:
            ValueError: A part of the URL is invalid; the text contains no password.
        """
        parts = urlsplit(url)
        if "@" in parts.netloc:
            raise ValueError(
                "an S3 URL holds no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "or give the machine a role"
            )
        if not _BUCKET.fullmatch(parts.netloc) or parts.fragment:
            raise ValueError("write s3://BUCKET/PREFIX")
        prefix = unquote(parts.path).strip("/")
        if prefix and not all(part not in {"", ".", ".."} for part in prefix.split("/")):
            raise ValueError("the prefix after s3://BUCKET/ has an empty part or dots for one")
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        if unknown := sorted(set(query) - set(OPTIONS)):
            raise ValueError(f"{unknown[0]!r} after an S3 URL is not known, only {', '.join(OPTIONS)}")
        return cls(
            bucket=parts.netloc,
            prefix=prefix,
            endpoint_url=_endpoint(query["endpoint_url"]) if "endpoint_url" in query else None,
            region=query.get("region") or None,
            timeout=_seconds(query["timeout"]) if "timeout" in query else DEFAULT_TIMEOUT,
        )

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


def _endpoint(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
        raise ValueError("endpoint_url: write http://HOST:PORT or https://HOST")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"timeout: {text!r} is no number of seconds above 0")
    return seconds
