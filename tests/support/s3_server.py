"""A real S3 server (moto) as a process that can be frozen or killed."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from itertools import count
from threading import Thread
from types import TracebackType
from typing import Self
from urllib.request import Request, urlopen

import obstore
from obstore.store import S3Store

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


@dataclass(frozen=True)
class S3Prefix:
    """A URL prefix for a model store."""

    endpoint: str
    bucket: str

    @property
    def url(self) -> str:
        return self.url_with(timeout=20)

    def url_with(self, **query: object) -> str:
        options = "".join(f"&{name}={value}" for name, value in query.items())
        return f"s3://{self.bucket}/shop/models?endpoint_url={self.endpoint}{options}"

    def put(self, key: str, content: bytes) -> None:
        """Writes an object without the model store's code."""
        obstore.put(self._objects, key, content)

    def delete(self, key: str) -> None:
        obstore.delete(self._objects, key)

    def get(self, key: str) -> bytes:
        return bytes(obstore.get(self._objects, key).bytes())

    def keys(self) -> set[str]:
        return {meta["path"] for page in obstore.list(self._objects) for meta in page}

    @property
    def _objects(self) -> S3Store:
        return S3Store(
            self.bucket,
            prefix="shop/models",
            endpoint=self.endpoint,
            client_options={"allow_http": True},
        )


class S3Server:
    """Runs as long as the context lasts."""

    def __init__(self) -> None:
        self._names = (f"bucket-{number}" for number in count())

    def __enter__(self) -> Self:
        environment = {**os.environ, **CREDENTIALS, "PYTHONUNBUFFERED": "1"}
        command = (sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0")
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                self.endpoint = found.group()
                break
        else:
            raise RuntimeError("moto's server ended before it listened")
        # The server logs every request and would stop once the pipe is full.
        self._reader = Thread(target=self.process.stderr.read)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def prefix(self) -> S3Prefix:
        """A prefix in a new bucket."""
        bucket = next(self._names)
        urlopen(Request(f"{self.endpoint}/{bucket}", method="PUT")).close()
        return S3Prefix(self.endpoint, bucket)
