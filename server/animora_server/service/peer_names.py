"""The names in a client's certificate.

gRPC gives them as C strings, which end at the first NUL byte: of `feed<NUL>.example.org`, which an authority
may have signed for the owner of example.org, it gives `feed`. So a certificate with a NUL in a name has no
names here.
"""

import ssl
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import grpc

    Context = grpc.aio.ServicerContext[Any, Any]

CERTIFICATE = "x509_pem_cert"  # the property of a connection that holds the certificate
# Tags of DER, the encoding of certificates.
CONSTRUCTED = 0x20  # a bit: the value holds further values
OCTET_STRING, OBJECT_IDENTIFIER, UNIVERSAL_STRING, BMP_STRING = 0x04, 0x06, 0x1C, 0x1E
STRINGS = {0x0C, 0x12, 0x13, 0x14, 0x16, 0x1A}
ALTERNATIVE_STRINGS = {0x81, 0x82, 0x86}  # email, DNS, URI
ALTERNATIVE_NAMES = b"\x55\x1d\x11"  # the object identifier 2.5.29.17


def peer_names(context: "Context") -> Sequence[str]:
    """The subject alternative names of the caller's verified certificate; without any, its common name."""
    identities = context.peer_identities()
    if not identities or any(_has_nul(pem) for pem in context.auth_context().get(CERTIFICATE, ())):
        return []
    return [name.decode("utf-8", "replace") for name in identities]


@lru_cache(maxsize=1024)  # certificates of callers that call again and again
def _has_nul(pem: bytes) -> bool:
    return _strings_have_nul(ssl.PEM_cert_to_DER_cert(pem.decode("ascii")), STRINGS)


def _strings_have_nul(der: bytes, string_tags: set[int]) -> bool:
    is_alternative_names = False
    for tag, value in _elements(der):
        if tag & CONSTRUCTED:
            found = _strings_have_nul(value, string_tags)
        elif tag == OCTET_STRING and is_alternative_names:
            found = _strings_have_nul(value, STRINGS | ALTERNATIVE_STRINGS)
        elif tag == BMP_STRING:
            found = "\0" in value.decode("utf-16-be", "replace")
        elif tag == UNIVERSAL_STRING:
            found = "\0" in value.decode("utf-32-be", "replace")
        else:
            found = tag in string_tags and b"\0" in value
        if found:
            return True
        is_alternative_names |= tag == OBJECT_IDENTIFIER and value == ALTERNATIVE_NAMES
    return False


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """The tag and value of each element of a sequence. OpenSSL's parser has accepted the certificate."""
    at = 0
    while at < len(der):
        tag, length = der[at], der[at + 1]
        at += 2
        if length & 0x80:  # the number of bytes that hold the length
            size = length & 0x7F
            length = int.from_bytes(der[at : at + size], "big")
            at += size
        yield tag, der[at : at + length]
        at += length
