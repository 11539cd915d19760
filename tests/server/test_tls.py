"""An unusable certificate or key is refused at the start by the name of its option."""

import subprocess
from pathlib import Path

import pytest
from pydantic import ValidationError

from animora_server import tls
from animora_server.errors import ConfigurationError
from animora_server.settings import GrpcSettings
from animora_server.tls import load_identity
from tests.support.redis_servers import make_certificates


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate and key (leaf), and invalid files."""
    made = tmp_path_factory.mktemp("tls")
    make_certificates(made)
    for command in (
        "openssl genrsa -out rsa.key 2048",
        "openssl genrsa -aes256 -passout pass:secret -out encrypted.key 2048",
        "openssl x509 -in leaf.pem -outform der -out leaf.der",
    ):
        subprocess.run(command.split(), cwd=made, check=True, capture_output=True)
    (made / "garbage").write_bytes(b"\xff\x00garbage")
    (made / "empty").touch()
    (made / "cut.pem").write_bytes((made / "leaf.pem").read_bytes()[:300])
    (made / "both.pem").write_bytes((made / "leaf.pem").read_bytes() + (made / "leaf.key").read_bytes())
    (made / "described.pem").write_text("subject=CN = Müller\n" + (made / "leaf.pem").read_text())
    return made


@pytest.mark.parametrize(
    ("certificate", "key"),
    [("leaf.pem", "leaf.key"), ("both.pem", "both.pem"), ("described.pem", "leaf.key")],
)
def test_a_certificate_and_its_key_are_loaded(folder: Path, certificate: str, key: str):
    identity = load_identity(GrpcSettings(tls_certificate=folder / certificate, tls_key=folder / key))
    assert identity is not None
    assert identity.key == (folder / key).read_bytes()


def test_a_byte_order_mark_before_a_certificate_or_key_is_skipped(folder: Path):
    for name in ("leaf.pem", "leaf.key"):
        (folder / f"marked-{name}").write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    identity = load_identity(
        GrpcSettings(tls_certificate=folder / "marked-leaf.pem", tls_key=folder / "marked-leaf.key")
    )
    assert identity is not None
    assert identity.certificates == (folder / "leaf.pem").read_bytes()
    assert identity.key == (folder / "leaf.key").read_bytes()


def test_without_tls_there_is_nothing_to_load():
    assert load_identity(GrpcSettings()) is None


@pytest.mark.parametrize(
    ("certificate", "key", "named"),
    [
        *((name, "leaf.key", "tls_certificate") for name in ("garbage", "empty", "cut.pem", "leaf.der")),
        ("leaf.key", "leaf.key", "tls_certificate"),
        ("none", "leaf.key", "tls_certificate"),
        (".", "leaf.key", "tls_certificate"),
        *(("leaf.pem", name, "tls_key") for name in ("garbage", "empty", "leaf.pem", "encrypted.key")),
        ("leaf.pem", "none", "tls_key"),
        ("leaf.pem", "ca.key", "tls_key"),
        ("leaf.pem", "rsa.key", "tls_key"),
    ],
)
def test_an_unusable_file_is_named_by_its_option(folder: Path, certificate: str, key: str, named: str):
    at_fault = folder / (certificate if named == "tls_certificate" else key)
    with pytest.raises(ConfigurationError) as refused:
        load_identity(GrpcSettings(tls_certificate=folder / certificate, tls_key=folder / key))
    assert str(refused.value).startswith(f"grpc.{named}: ")
    assert str(at_fault) in str(refused.value)


@pytest.mark.parametrize("key", ["ca.key", "rsa.key"])
def test_a_key_of_another_certificate_and_an_invalid_key_are_different_errors(folder: Path, key: str):
    with pytest.raises(ConfigurationError, match="is not the key of the certificate"):
        load_identity(GrpcSettings(tls_certificate=folder / "leaf.pem", tls_key=folder / key))


def test_a_client_authority_that_is_none_is_named_by_its_option(folder: Path):
    settings = GrpcSettings(
        tls_certificate=folder / "leaf.pem", tls_key=folder / "leaf.key", tls_client_ca=folder / "garbage"
    )
    with pytest.raises(ConfigurationError, match=r"^grpc\.tls_client_ca: .*garbage holds no valid PEM"):
        load_identity(settings)


def test_files_that_change_while_they_are_checked_are_not_taken(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    certificate = tmp_path / "leaf.pem"
    certificate.write_bytes((folder / "leaf.pem").read_bytes())
    settings = GrpcSettings(tls_certificate=certificate, tls_key=folder / "leaf.key")
    checked = tls._check_key

    def replace_after_check(*files: Path) -> None:
        checked(*files)
        certificate.write_bytes((folder / "ca.pem").read_bytes())

    monkeypatch.setattr(tls, "_check_key", replace_after_check)
    with pytest.raises(ConfigurationError, match="is being replaced"):
        load_identity(settings)


def test_a_client_authority_needs_a_certificate_of_the_server():
    with pytest.raises(ValidationError, match="tls_client_ca needs tls_certificate and tls_key"):
        GrpcSettings(tls_client_ca=Path("ca.pem"))
