"""Opens ZIP archives (`.npz` and `model.ts`) and rejects those that could expand beyond their size."""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from animora_artifact.errors import ArtifactRejected, RejectionReason

_ENCRYPTED = 0x1  # a bit of a ZIP member's flags
# Sizes of the end record, of the locator of the 64-bit end record, and of the 64-bit end record.
_END = 22
_LOCATOR, _LOCATOR_SIGNATURE = 20, b"PK\6\7"
_END_64 = 56
# Errors that the standard library raises for invalid archives.
UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ValueError,
    EOFError,
    OSError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
    LookupError,
)


@contextmanager
def open_stored(data: bytes, compressed_folder: str = "", max_expanded: int = 0) -> Iterator[zipfile.ZipFile]:
    """Opens an archive whose members are stored uncompressed, so that they are no larger than the archive.

    Args:
        data: Bytes of the archive.
        compressed_folder: Name of a folder, one level below the root, whose members may be compressed; empty
            for none.
        max_expanded: Maximum size of all compressed members, expanded, in bytes.

    Raises:
        ArtifactRejected: A member is encrypted, compressed where that is not allowed, or larger than declared
            or allowed.
        zipfile.BadZipFile: The bytes are not an archive. Reading members may raise any of UNREADABLE.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        stored = compressed = 0
        for info in archive.infolist():
            if info.flag_bits & _ENCRYPTED:
                raise _rejected(f"{info.filename} is encrypted")
            if info.compress_type != zipfile.ZIP_STORED:
                if not compressed_folder or info.filename.split("/")[1:2] != [compressed_folder]:
                    raise _rejected(f"{info.filename} is compressed; it must be stored as it is")
                compressed += info.file_size
            else:
                stored += info.file_size
                if stored > len(data) or info.compress_size != info.file_size:
                    raise _rejected(
                        f"{info.filename} has {info.file_size} bytes, which the file does not hold"
                    )
            if compressed > max_expanded:
                raise _rejected(f"its compressed members expand to more than {max_expanded} bytes")
        _require_one_directory(archive, data)
        yield archive


def _require_one_directory(archive: zipfile.ZipFile, data: bytes) -> None:
    """Checks that the central directory is right before the end record and where the record says.

    Python reads the directory before the end record, PyTorch the one that the record points to. With two
    directories, PyTorch would read members that were not checked.
    """
    end = len(data) - _END
    found = struct.unpack_from("<L", data, end + 16)[0]
    if data[end - _LOCATOR : end - _LOCATOR + 4] == _LOCATOR_SIGNATURE:
        located = struct.unpack_from("<Q", data, end - _LOCATOR + 8)[0]
        found = struct.unpack_from("<Q", data, end - _LOCATOR - _END_64 + 48)[0]
        if located != end - _LOCATOR - _END_64:
            raise _rejected("the end of the archive is not where it says")
    if archive.comment or found != archive.start_dir:
        raise _rejected("the directory of the archive is not right before its end")


def _rejected(detail: str) -> ArtifactRejected:
    return ArtifactRejected(RejectionReason.CONTENT, detail)
