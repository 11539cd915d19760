"""The pointer's rules, over a file with concurrent writers."""

from collections.abc import Callable

import pytest

from animora_artifact import ActivationLost, ArtifactRejected, Pointer, StoreUnavailable, VersionNotFound
from animora_artifact.pointer import (
    ANYTHING,
    MAX_NAMES,
    MAX_POINTER_BYTES,
    activate,
    read_pointer,
    roll_back,
)


class FakeFile:
    """A pointer file in memory; `meanwhile` holds writes between a read and the next swap."""

    def __init__(self, content: bytes | None = None):
        self.content = content
        self.state = 0
        self.meanwhile: list[Callable[[], None]] = []

    def load(self) -> tuple[bytes | None, int]:
        return self.content, self.state

    def swap(self, content: bytes, token: int) -> bool:
        if self.meanwhile:
            self.meanwhile.pop(0)()
        if token != self.state:
            return False
        self.write(content)
        return True

    def write(self, content: bytes) -> None:
        self.content = content
        self.state += 1


class ForgetfulFile(FakeFile):
    """A pointer file whose writes succeed with a lost response."""

    def swap(self, content: bytes, token: int) -> bool:
        super().swap(content, token)
        return False


def test_a_pointer_of_one_line_has_no_history():
    assert Pointer.parse(b"v1\n") == Pointer.parse(b"v1") == Pointer(("v1",))
    assert Pointer.parse(b"v1").previous is None


def test_a_pointer_round_trips():
    pointer = Pointer(("v3", "v2", "v1"))
    assert Pointer.parse(pointer.to_bytes()) == pointer
    assert (pointer.active, pointer.previous) == ("v3", "v2")


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"..\nv1\n", b"\xff\n", b"v" * 65, b"v1\n" * MAX_POINTER_BYTES]
)
def test_a_pointer_whose_first_line_is_not_a_version_name_is_refused(content):
    with pytest.raises(ArtifactRejected, match="not a version's name"):
        read_pointer(FakeFile(content))


def test_a_history_ends_at_its_first_unreadable_line():
    assert Pointer.parse(b"v3\nv2\n../v1\nv0\n") == Pointer(("v3", "v2"))


def test_the_history_is_bounded_and_fits_the_file():
    pointer = Pointer()
    for number in range(3 * MAX_NAMES):
        pointer = pointer.to(f"{number:064}")
    assert len(pointer.names) == MAX_NAMES
    assert len(pointer.to_bytes()) <= MAX_POINTER_BYTES
    assert Pointer.parse(pointer.to_bytes()) == pointer


def test_an_activation_is_appended_to_the_history():
    file = FakeFile()
    activate(file, "v1", None)
    activate(file, "v2", "v1")
    activate(file, "v2", ANYTHING)
    assert file.content == b"v2\nv1\n"


def test_an_activation_that_expects_another_version_fails_and_names_the_active_one():
    file = FakeFile(b"v2\nv1\n")
    with pytest.raises(ActivationLost, match="someone else was first: v2 is active") as lost:
        activate(file, "v3", "v1")
    assert lost.value.active == "v2"
    with pytest.raises(ActivationLost):
        activate(file, "v3", None)
    with pytest.raises(ActivationLost, match="no version is active"):
        activate(FakeFile(), "v3", "v1")
    assert file.content == b"v2\nv1\n"


def test_an_activation_fails_if_the_pointer_changes_between_read_and_write():
    file = FakeFile(b"v1\n")
    file.meanwhile = [lambda: file.write(b"v2\nv1\n")]
    with pytest.raises(ActivationLost, match="v2 is active"):
        activate(file, "v3", "v1")
    assert file.content == b"v2\nv1\n"


def test_an_unconditional_activation_retries_after_concurrent_ones():
    file = FakeFile(b"v1\n")
    file.meanwhile = [lambda: file.write(b"v2\nv1\n")]
    activate(file, "v3", ANYTHING)
    assert file.content == b"v3\nv2\nv1\n"


def test_an_activation_gives_up_if_the_pointer_keeps_changing():
    file = FakeFile(b"v1\n")
    file.meanwhile = [lambda: file.write(b"v2\n")] * 100
    with pytest.raises(StoreUnavailable, match="try again"):
        activate(file, "v3", ANYTHING)


def test_a_write_whose_response_is_lost_counts_as_done():
    file = ForgetfulFile(b"v1\n")
    activate(file, "v2", "v1")
    assert file.content == b"v2\nv1\n"
    roll_back(file, Pointer(("v2", "v1")))
    assert file.content == b"v1\n"


def test_a_damaged_pointer_is_replaced_by_an_activation():
    file = FakeFile(b"no name at all")
    activate(file, "v2", ANYTHING)
    assert file.content == b"v2\n"


def test_each_rollback_goes_one_version_further_back():
    file = FakeFile(b"v3\nv2\nv1\n")
    roll_back(file, read_pointer(file))
    assert file.content == b"v2\nv1\n"
    roll_back(file, read_pointer(file))
    assert file.content == b"v1\n"
    with pytest.raises(VersionNotFound, match="before v1"):
        roll_back(file, read_pointer(file))
    with pytest.raises(VersionNotFound, match="no version is active"):
        roll_back(FakeFile(), Pointer())


def test_a_pointer_that_has_moved_is_not_rolled_back():
    file = FakeFile(b"v3\nv2\n")
    seen = read_pointer(file)
    file.write(b"v4\nv3\nv2\n")
    with pytest.raises(ActivationLost, match="v4 is active"):
        roll_back(file, seen)
    file.write(b"v3\nv2\n")
    file.meanwhile = [lambda: file.write(b"v5\nv3\nv2\n")]
    with pytest.raises(ActivationLost, match="v5 is active"):
        roll_back(file, seen)
    assert file.content == b"v5\nv3\nv2\n"
