"""The S3 store: failures of the server, interrupted publications."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

import pytest

from animora_artifact import ArtifactRejected, StoreUnavailable, open_store, pack
from animora_artifact.package import Package, digest
from animora_artifact.s3_bucket import PART_BYTES, ObjectNotFound, PreconditionFailed, S3Bucket
from animora_artifact.s3_url import S3Place
from tests.support.dot_product import make_artifact, with_manifest
from tests.support.s3_server import CREDENTIALS

DENIED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>secret detail</Message></Error>"


@pytest.fixture
def _credentials(monkeypatch):
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@contextmanager
def listening(answer: Callable[[socket.socket, Event], None]) -> Iterator[str]:
    """The URL of a server that gives each connection to `answer`, which ends when the event is set."""
    over = Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while not over.is_set():
                connection, _ = server.accept()
                with connection, suppress(OSError):  # the client may have disconnected
                    if not over.is_set():
                        answer(connection, over)

        thread = Thread(target=serve)
        thread.start()
        port = server.getsockname()[1]
        try:
            yield f"http://127.0.0.1:{port}"
        finally:  # else the interpreter waits for the thread
            over.set()
            socket.create_connection(("127.0.0.1", port)).close()
            thread.join()


def say(status: str, body: bytes) -> Callable[[socket.socket, Event], None]:
    def answer(connection: socket.socket, over: Event) -> None:
        connection.recv(1 << 16)
        head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        connection.sendall(head.encode() + body)

    return answer


def breaking_off(connection: socket.socket, over: Event) -> None:
    connection.recv(1 << 16)
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n")
    connection.sendall(b"last-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\nv1")


def say_nothing(connection: socket.socket, over: Event) -> None:
    over.wait(10)


def drip(connection: socket.socket, over: Event) -> None:
    """Sends a byte at a time, so that no single read takes long."""
    connection.recv(1 << 16)
    connection.sendall(b'HTTP/1.1 200 OK\r\ncontent-length: 1000\r\netag: "x"\r\n')
    connection.sendall(b"last-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\n")
    while not over.wait(0.05):
        connection.sendall(b"v")


@pytest.mark.usefixtures("_credentials")
def test_an_unreachable_server_makes_the_store_unavailable():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    store = open_store(f"s3://bucket/models?endpoint_url=http://127.0.0.1:{port}")
    for call in (store.active, store.listing, lambda: store.read("v1"), lambda: store.activate("v1")):
        with pytest.raises(StoreUnavailable, match="s3://bucket/models: cannot connect: check endpoint_url"):
            call()
    with pytest.raises(StoreUnavailable):
        store.publish(make_artifact())


@pytest.mark.usefixtures("_credentials")
@pytest.mark.parametrize("answer", [say_nothing, drip])
def test_an_endless_response_makes_the_store_unavailable(answer):
    with listening(answer) as endpoint:
        store = open_store(f"s3://bucket/models?endpoint_url={endpoint}&timeout=0.3")
        with pytest.raises(StoreUnavailable, match=r"no answer within 0\.3 s"):
            store.active()


@pytest.mark.usefixtures("_credentials")
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (say("403 Forbidden", DENIED), r"denied: check the credentials.* \(S3 answers AccessDenied\)"),
        (say("403 Forbidden", b""), "access is denied: check the credentials"),
        (say("400 Bad Request", DENIED.replace(b"AccessDenied", b"InvalidToken")), "S3 answers InvalidToken"),
        (say("200 OK", b"this is no S3"), "no answer within 2 s, or none that is S3's"),
    ],
)
def test_an_s3_error_is_described_without_the_librarys_text(answer, reason):
    with listening(answer) as endpoint:
        store = open_store(f"s3://bucket/models?endpoint_url={endpoint}&timeout=2")
        with pytest.raises(StoreUnavailable, match=reason) as refused:
            store.listing()
        assert "secret detail" not in str(refused.value)


@pytest.mark.usefixtures("_credentials")
def test_a_truncated_response_is_an_error():
    with listening(breaking_off) as endpoint:
        store = open_store(f"s3://bucket/models?endpoint_url={endpoint}&timeout=2")
        with pytest.raises(StoreUnavailable, match="no answer"):
            store.active()


def test_a_missing_bucket_is_an_error(s3):
    store = open_store(f"s3://no-such-bucket/models?endpoint_url={s3.endpoint}")
    for call in (store.active, store.listing, lambda: store.manifest("v1")):
        with pytest.raises(StoreUnavailable, match="there is no such bucket"):
            call()


def test_a_store_recovers_after_a_frozen_server(s3, shared_s3, frozen):
    store = open_store(s3.url_with(timeout=0.5))
    store.publish(make_artifact("v1"))
    store.activate("v1")
    with frozen(shared_s3.process.pid):
        for call in (store.active, lambda: store.activate("v1"), lambda: store.publish(make_artifact("v2"))):
            with pytest.raises(StoreUnavailable, match="no answer within"):
                call()
    patient = open_store(s3.url)
    assert patient.active() == "v1"
    patient.publish(make_artifact("v2"))


def test_a_version_has_the_same_files_as_in_a_folder(s3):
    open_store(s3.url).publish(make_artifact("v1"))
    files = {f"v1/{name}" for name in ("model.ts", "vocabulary.npz", "golden.npz", "manifest.json")}
    assert s3.keys() == {*files, ".claims/v1"}


def test_an_interrupted_publication_becomes_a_version_when_repeated(s3):
    store, artifact = open_store(s3.url), make_artifact("v1")
    store.publish(artifact)
    s3.delete("v1/manifest.json")
    s3.put("v1/golden.npz", b"half")
    assert store.listing().manifests == []
    store.publish(artifact)
    assert store.read("v1").manifest.version == "v1"


def test_two_publications_of_one_name_are_never_mixed(s3):
    store, artifact = open_store(s3.url), make_artifact("v1")
    store.publish(artifact)
    s3.delete("v1/manifest.json")  # as if it were still being written
    before = s3.get("v1/model.ts")
    with pytest.raises(StoreUnavailable, match=r"something else .* as v1; .* delete v1/ and \.claims/v1"):
        store.publish(with_manifest(artifact, metrics={"ndcg@10": 0.5}))
    assert s3.get("v1/model.ts") == before
    s3.delete(".claims/v1")
    store.publish(with_manifest(artifact, metrics={"ndcg@10": 0.5}))
    assert store.manifest("v1").metrics == {"ndcg@10": 0.5}


def test_a_multipart_file_round_trips(s3):
    store, artifact = open_store(s3.url), make_artifact("v1")
    package = pack(artifact)
    large = os.urandom(2 * PART_BYTES + 12345)
    files = {**package.manifest.files, "model.ts": digest(large)}
    manifest = package.manifest.model_copy(update={"files": files})
    store.add(Package(manifest, {**package.data, "model.ts": large}, manifest.to_json()))
    assert store.read("v1").model == large
    s3.put("v1/model.ts", large[:-1])
    with pytest.raises(ArtifactRejected) as refused:
        store.read("v1")
    assert refused.value.reason == "size"


def test_the_environment_completes_the_url(s3, monkeypatch):
    open_store(s3.url).publish(make_artifact("v1"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    assert len(open_store(f"s3://{s3.bucket}/shop/models").listing().manifests) == 1


def test_a_conditional_write_fails_in_any_other_state(s3):
    bucket = S3Bucket(S3Place.parse(s3.url))
    bucket.create("key", b"one")
    with pytest.raises(PreconditionFailed):
        bucket.create("key", b"two")
    tag = bucket.get("key", 10).tag
    assert tag is not None
    bucket.replace("key", b"three", tag)
    for key in ("key", "none"):
        with pytest.raises(PreconditionFailed):
            bucket.replace(key, b"four", tag)
    assert bucket.get("key", 10).content == b"three"
    assert not bucket.exists("none")
    with pytest.raises(ObjectNotFound):
        bucket.get("none", 10)
