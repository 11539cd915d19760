"""A signed ACTIVE: openssl verifies it too, and it is refused when its signature is missing or wrong."""

import subprocess
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from animora_artifact import ActivationLost, FolderStore, Pointer, open_store, pointer_keys
from animora_artifact.pointer import MAX_NAMES, MAX_POINTER_BYTES
from tests.support.dot_product import make_artifact
from tests.support.signing_keys import refused_signature, write_keys


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return write_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(params=["folder", "s3"])
def url(request, tmp_path):
    """A store with the versions v1 and v2."""
    url = request.getfixturevalue("s3").url if request.param == "s3" else str(tmp_path / "models")
    for version in ("v1", "v2"):
        open_store(url).publish(make_artifact(version))
    return url


@pytest.fixture
def folder(tmp_path):
    """A folder with the versions v1 and v2."""
    for version in ("v1", "v2"):
        FolderStore(tmp_path / "models").publish(make_artifact(version))
    return tmp_path / "models"


def signing(folder, keys):
    return FolderStore(folder, keys=pointer_keys(private_key=keys.private))


def checking(folder, keys):
    return FolderStore(folder, keys=pointer_keys(keys.public))


def test_a_signed_pointer_is_read_with_its_key_and_without_one(url, keys):
    signing = open_store(url, keys=pointer_keys(private_key=keys.private))
    signing.activate("v1")
    signing.activate("v2", expected="v1")
    signed = open_store(url, keys=pointer_keys(keys.public)).pointer()
    assert signed.names == open_store(url).pointer().names == ("v2", "v1")
    assert signed.signed_at is not None
    assert abs(datetime.now(UTC) - signed.signed_at) < timedelta(minutes=10)
    signing.rollback(signed)
    assert open_store(url, keys=pointer_keys(keys.public)).active() == "v1"
    with pytest.raises(ActivationLost):
        signing.activate("v2", expected="v2")


def test_openssl_verifies_the_signature(folder, keys, tmp_path):
    signing(folder, keys).activate("v1")
    *signed, last = (folder / "ACTIVE").read_bytes().splitlines(keepends=True)
    (tmp_path / "signed").write_bytes(b"".join(signed))
    (tmp_path / "signature").write_bytes(b64decode(last.removeprefix(b"signature: ")))
    command = ("openssl", "dgst", "-sha256", "-verify", keys.public, "-signature", tmp_path / "signature")
    verified = subprocess.run([*command, tmp_path / "signed"], capture_output=True, text=True, check=False)
    assert verified.stdout == "Verified OK\n", verified.stderr


def test_a_pointer_without_a_signature_is_refused(folder, keys):
    FolderStore(folder).activate("v1")
    assert "ACTIVE is not signed" in refused_signature(checking(folder, keys).pointer)


def test_a_pointer_signed_with_another_key_is_refused(folder, keys, tmp_path):
    signing(folder, write_keys(tmp_path / "other")).activate("v1")
    assert "not by this key" in refused_signature(checking(folder, keys).pointer)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"v2\nv1", b"v1\nv2"),
        (b"v2\nv1", b"v2"),
        (b"signed-at: 20", b"signed-at: 30"),
        (b"signature: ", b"signature: AAAA"),
        (b"signature: ", b"signature: \xff"),
        (b"\nsignature: ", b"\nsignature: \nsignature: "),
        (b"signature: M", b"signature: m"),
    ],
)
def test_a_pointer_that_was_changed_is_refused(folder, keys, old, new):
    for version in ("v1", "v2"):
        signing(folder, keys).activate(version)
    content = (folder / "ACTIVE").read_bytes()
    assert old in content
    (folder / "ACTIVE").write_bytes(content.replace(old, new, 1))
    refused_signature(checking(folder, keys).pointer)


@pytest.mark.parametrize("line", [b"", b"signed-at: soon\n", b"signed-at: 0001-01-01T00:00:00+23:00\n"])
def test_a_signature_without_a_time_is_refused(keys, line):
    key = pointer_keys(private_key=keys.private).signer
    assert key is not None
    sign = key.sign

    class Signer:
        def sign(self, content):
            head, _, _ = content.partition(b"signed-at")
            self.content = head + line
            return sign(self.content)

    signer = Signer()
    content = Pointer(("v1",), datetime.now(UTC)).to_bytes(signer)  # type: ignore[arg-type]  # all that it uses
    content = signer.content + b"signature" + content.partition(b"signature")[2]
    assert "no time" in refused_signature(lambda: Pointer.parse(content, key))


def test_each_signature_is_later_than_the_one_before_even_if_the_clock_is_behind(folder, keys):
    named = pointer_keys(private_key=keys.private)
    future = datetime.now(UTC) + timedelta(days=1)
    (folder / "ACTIVE").write_bytes(Pointer(("v1",), future).to_bytes(named.signer))
    signing(folder, keys).activate("v2")
    pointer = checking(folder, keys).pointer()
    assert pointer.names == ("v2", "v1")
    assert pointer.signed_at is not None
    assert pointer.signed_at > future
    signing(folder, keys).rollback(pointer)
    rolled_back = checking(folder, keys).pointer().signed_at
    assert rolled_back is not None
    assert rolled_back > pointer.signed_at


def test_an_unsigned_pointer_never_replaces_a_signed_one(folder, keys):
    signing(folder, keys).activate("v1")
    before = (folder / "ACTIVE").read_bytes()
    for store in (FolderStore(folder), checking(folder, keys)):
        assert "--sign-key" in refused_signature(partial(store.activate, "v2"))
        assert (folder / "ACTIVE").read_bytes() == before
    signing(folder, keys).activate("v2")
    assert "--sign-key" in refused_signature(
        lambda: checking(folder, keys).rollback(checking(folder, keys).pointer())
    )


def test_names_that_were_not_signed_are_not_signed_as_history(folder, keys):
    (folder / "ACTIVE").write_text("v1\nwritten-by-someone\n")
    signing(folder, keys).activate("v2")
    assert checking(folder, keys).pointer().names == ("v2",)
    (folder / "ACTIVE").write_text("v2\n")
    signing(folder, keys).activate("v2")  # the same version, but not signed so far
    assert checking(folder, keys).active() == "v2"


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_a_full_history_and_a_signature_fit_the_file(tmp_path, curve):
    pair = write_keys(tmp_path, ec.generate_private_key(curve))
    pointer = Pointer(tuple(f"{number:064}" for number in range(MAX_NAMES)), datetime.now(UTC))
    content = pointer.to_bytes(pointer_keys(private_key=pair.private).signer)
    assert len(content) <= MAX_POINTER_BYTES
    assert Pointer.parse(content, pointer_keys(pair.public).check) == pointer


def test_a_key_that_cannot_be_used_is_named(keys, tmp_path):
    (tmp_path / "text.pem").write_text("no key")
    weak = write_keys(tmp_path / "rsa", rsa.generate_private_key(65537, 2048))
    other = write_keys(tmp_path / "curve", ec.generate_private_key(ec.SECP256K1()))
    locked = write_keys(tmp_path / "locked", password=b"hush")
    for private in (tmp_path / "text.pem", weak.private, other.private, locked.private, locked.public):
        with pytest.raises(ValueError, match="not a PEM private key on P-256"):
            pointer_keys(private_key=private)
    for public in (tmp_path / "text.pem", weak.public, other.public, locked.private):
        with pytest.raises(ValueError, match="not a PEM public key on P-256"):
            pointer_keys(public)
    with pytest.raises(ValueError, match=r"none\.pem: cannot be read: No such file"):
        pointer_keys(tmp_path / "none.pem")
    with pytest.raises(ValueError, match=r"key\.pem: not the private key of .*key\.pub\.pem"):
        pointer_keys(locked.public, keys.private)
