"""Signatures: compatible with the real `model_signing` program, and refused when wrong."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from animora_artifact import (
    ArtifactRejected,
    FolderStore,
    open_store,
    pack,
    require_signature,
    signature_check,
    signer,
    write_artifact,
)
from tests.support.dot_product import make_artifact, with_manifest
from tests.support.signing_keys import refused_signature, write_keys


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return write_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def package(keys):
    return signer(keys.private).sign(pack(replace(make_artifact("v1"), compiled=b"code")))


@pytest.fixture
def folder(package, tmp_path):
    """A signed version, to be damaged."""
    FolderStore(tmp_path / "models").add(package)
    return tmp_path / "models" / "v1"


@pytest.fixture
def read(keys, tmp_path):
    """Reads the version as a server with the public key does."""
    store = FolderStore(tmp_path / "models", signature_check(keys.public))
    return lambda: store.read("v1")


def model_signing(*arguments):
    command = (sys.executable, "-m", "model_signing", *map(str, arguments))
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_model_signing_verifies_our_signatures(folder, keys):
    verify = ("verify", "key", folder, "--signature", folder / "model.sig", "--public_key", keys.public)
    verified = model_signing(*verify)
    assert verified.returncode == 0, verified.stderr
    (folder / "model.ts").write_bytes(b"another model")
    assert model_signing(*verify).returncode != 0


def test_signatures_of_model_signing_are_verified(keys, tmp_path, read):
    folder = tmp_path / "models" / "v1"
    write_artifact(make_artifact("v1"), folder)
    signed = model_signing(
        "sign", "key", folder, "--signature", folder / "model.sig", "--private_key", keys.private
    )
    assert signed.returncode == 0, signed.stderr
    assert read().manifest.version == "v1"


def test_a_signed_version_is_read_with_its_key_and_without_one(folder, read):
    assert read().manifest.version == "v1"
    assert FolderStore(folder.parent).read("v1").manifest.version == "v1"


def test_a_signed_version_comes_through_s3(package, keys, s3):
    store = open_store(s3.url, signature_check(keys.public))
    store.add(package)
    assert store.read("v1").manifest.version == "v1"
    s3.delete("v1/model.sig")
    assert "not signed" in refused_signature(lambda: store.read("v1"))


@pytest.mark.failure(17)
@pytest.mark.usefixtures("folder")
def test_a_version_signed_with_another_key_is_refused(tmp_path):
    other = write_keys(tmp_path / "other")
    store = FolderStore(tmp_path / "models", signature_check(other.public))
    assert "not by this key" in refused_signature(lambda: store.read("v1"))


def test_a_version_without_a_signature_is_refused_before_its_manifest_is_parsed(folder, read):
    (folder / "model.sig").unlink()
    (folder / "manifest.json").write_bytes(b"{")
    assert "not signed" in refused_signature(read)


@pytest.mark.failure(17)
def test_a_manifest_that_was_not_signed_is_refused_before_it_is_parsed(folder, read):
    (folder / "manifest.json").write_bytes(b"{")
    assert "manifest.json is not the file that was signed" in refused_signature(read)


@pytest.mark.parametrize("name", ["model.ts", "vocabulary.npz", "golden.npz", "score.so"])
def test_a_file_that_was_replaced_with_its_digest_is_refused(folder, read, name):
    other = folder.parent / "other"
    write_artifact(with_manifest(make_artifact("v1"), version="v1", metrics={"a": 1.0}), other)
    (folder / name).write_bytes(b"malicious")
    (folder / "manifest.json").write_bytes((other / "manifest.json").read_bytes())
    refused_signature(read)


@pytest.mark.failure(17)
def test_code_that_was_not_signed_is_refused_before_it_is_read(folder, keys, read):
    version = make_artifact("v1")
    signed = signer(keys.private).sign(pack(version))
    (folder / "model.sig").write_bytes(signed.signature or b"")
    assert "is not the file that was signed" in refused_signature(read)  # the manifest that lists it
    (folder / "manifest.json").write_bytes(signed.manifest_file)
    assert read().compiled is None


def test_a_file_that_was_replaced_alone_is_refused_by_its_digest(folder, read):
    content = bytearray((folder / "model.ts").read_bytes())
    content[-1] ^= 1
    (folder / "model.ts").write_bytes(content)
    with pytest.raises(ArtifactRejected) as refused:
        read()
    assert refused.value.reason == "digest"


def test_a_signature_of_another_version_is_refused(folder, keys, read):
    other = signer(keys.private).sign(pack(make_artifact("v2")))
    (folder / "model.sig").write_bytes(other.signature)
    assert "manifest.json is not the file that was signed" in refused_signature(read)


def test_a_statement_that_was_changed_is_refused(folder, read):
    bundle = json.loads((folder / "model.sig").read_bytes())
    envelope = bundle["dsseEnvelope"]
    envelope["payload"] = envelope["payload"][:100] + "AAAA" + envelope["payload"][104:]
    (folder / "model.sig").write_text(json.dumps(bundle))
    assert "not by this key" in refused_signature(read)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"mediaType": 7, "verificationMaterial": {}, "dsseEnvelope": {}}',
        b'{"verificationMaterial": null}',
    ],
)
def test_a_malformed_signature_is_refused(folder, read, content):
    (folder / "model.sig").write_bytes(content)
    assert "no signature" in refused_signature(read)


def test_a_signature_that_is_far_too_large_is_refused_unread(folder, read):
    (folder / "model.sig").write_bytes(b" " * (2 << 20))
    with pytest.raises(ArtifactRejected) as refused:
        read()
    assert refused.value.reason == "size"


def test_every_file_of_a_package_in_memory_is_verified(package, keys):
    check = signature_check(keys.public)
    require_signature(package, check)
    unsigned = replace(package, signature=None)
    assert "not signed" in refused_signature(lambda: require_signature(unsigned, check))
    assert unsigned.files().keys() == package.files().keys() - {"model.sig"}


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()])
def test_larger_curves_are_accepted(tmp_path, curve):
    keys = write_keys(tmp_path, ec.generate_private_key(curve))
    package = signer(keys.private).sign(pack(make_artifact("v1")))
    require_signature(package, signature_check(keys.public))


def test_a_key_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "text.pem").write_text("no key")
    weak = write_keys(tmp_path / "rsa", rsa.generate_private_key(65537, 2048))
    other = write_keys(tmp_path / "curve", ec.generate_private_key(ec.SECP256K1()))
    locked = write_keys(tmp_path / "locked", password=b"hush")
    for private in (tmp_path / "text.pem", weak.private, other.private, locked.private, locked.public):
        with pytest.raises(ValueError, match="not a PEM private key on P-256"):
            signer(private)
    for public in (tmp_path / "text.pem", weak.public, other.public, locked.private):
        with pytest.raises(ValueError, match="not a PEM public key on P-256"):
            signature_check(public)
    for load in (signer, signature_check):
        with pytest.raises(ValueError, match=r"none\.pem: cannot be read: No such file"):
            load(tmp_path / "none.pem")
