import os
import stat
import tempfile
from pathlib import Path

import pytest

from animora_server.errors import ConfigurationError
from animora_server.settings import ScorerSettings
from animora_server.shared_device.socket_path import is_shared, socket_path


@pytest.mark.parametrize(
    ("shared", "device", "gpus", "expected"),
    [
        ("auto", "cpu", ["nvidia0"], False),
        ("auto", "auto", [], False),
        ("auto", "auto", ["nvidiactl"], False),
        ("auto", "auto", ["nvidiactl", "nvidia0"], True),
        ("auto", "cuda:1", [], True),
        ("on", "cpu", [], True),
        ("off", "cuda", ["nvidia0"], False),
    ],
)
def test_a_gpu_is_shared_unless_the_option_says_otherwise(tmp_path, shared, device, gpus, expected):
    for gpu in gpus:
        (tmp_path / gpu).touch()
    assert is_shared(ScorerSettings(shared=shared, device=device), tmp_path) is expected


def test_a_missing_folder_for_temporary_files_is_a_configuration_error(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(ConfigurationError, match=r"^TMPDIR: .* \(No such file"), socket_path():
        pass


def test_a_path_too_long_for_a_socket_is_a_configuration_error(tmp_path, monkeypatch):
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.raises(ConfigurationError, match=r"^TMPDIR: .* too long"), socket_path():
        pass
    assert list(deep.iterdir()) == []


def test_only_this_user_can_reach_the_socket_and_its_folder_is_removed():
    with socket_path() as path:
        folder = Path(path).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert folder.stat().st_uid == os.getuid()
    assert not folder.exists()
