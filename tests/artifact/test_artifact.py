import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from animora_artifact import (
    ArtifactRejected,
    StoreUnavailable,
    VersionNotFound,
    read_artifact,
    write_artifact,
)
from animora_artifact.package import digest
from tests.support.dot_product import make_artifact, with_manifest

FILES = ("model.ts", "vocabulary.npz", "golden.npz", "score.so")


@pytest.fixture(scope="module")
def artifact():
    return replace(make_artifact(), compiled=b"code that is not run here")


@pytest.fixture
def folder(artifact, tmp_path):
    """A version on disk, to be damaged."""
    folder = tmp_path / artifact.manifest.version
    write_artifact(artifact, folder)
    return folder


def edit_manifest(folder, **changes):
    manifest = json.loads((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))


def rejection(folder):
    with pytest.raises(ArtifactRejected) as raised:
        read_artifact(folder)
    return raised.value.reason


def test_a_version_round_trips(artifact, folder):
    read = read_artifact(folder)
    assert read.model == artifact.model
    assert read.compiled == artifact.compiled
    assert set(read.manifest.files) == set(FILES)
    assert read.manifest.model_copy(update={"files": {}}) == artifact.manifest
    np.testing.assert_array_equal(read.vocabulary.post_ids, artifact.vocabulary.post_ids)
    np.testing.assert_array_equal(read.golden.probabilities, artifact.golden.probabilities)


def test_a_version_may_lack_native_code(artifact, tmp_path):
    folder = tmp_path / artifact.manifest.version
    write_artifact(make_artifact(), folder)
    assert read_artifact(folder).compiled is None
    (folder / "score.so").write_bytes(b"what the manifest does not list is not read")
    assert read_artifact(folder).compiled is None


@pytest.mark.failure(17)
@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_refused_by_its_size(folder, name):
    os.truncate(folder / name, (folder / name).stat().st_size - 1)
    assert rejection(folder) == "size"


@pytest.mark.parametrize("name", FILES)
def test_a_longer_file_is_refused_by_its_size(folder, name):
    with (folder / name).open("ab") as file:
        file.write(b"\0")
    assert rejection(folder) == "size"


@pytest.mark.failure(17)
@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_refused_by_its_digest(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    assert rejection(folder) == "digest"


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused_by_its_size(folder, name):
    (folder / name).unlink()
    assert rejection(folder) == "size"


@pytest.mark.failure(17)
@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_link_is_refused_wherever_it_leads(folder, tmp_path, name):
    shutil.move(folder / name, tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    assert rejection(folder) == "file_type"


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_pipe_or_a_folder_in_a_files_place_is_refused_without_blocking(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert rejection(folder) == "file_type"
    (folder / name).unlink()
    (folder / name).mkdir()
    assert rejection(folder) == "file_type"


@pytest.mark.failure(17)
def test_a_half_written_version_has_no_manifest_and_is_refused(folder):
    (folder / "manifest.json").unlink()
    with pytest.raises(VersionNotFound):
        read_artifact(folder)


@pytest.mark.failure(17)
@pytest.mark.parametrize("found", [0, 2, 99])
def test_a_version_of_another_format_is_refused_before_its_files_are_read(folder, found):
    edit_manifest(folder, format=found)
    for name in FILES:
        (folder / name).unlink()
    assert rejection(folder) == "format"


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "20990101T000000Z-000000"},
        {"version": "../20260101T000000Z-abcdef"},
        {"files": {}},
        {"files": {"../model.ts": {"size": 1, "sha256": "0" * 64}}},
        {"files": {"model.ts": {"size": -1, "sha256": "0" * 64}}},
        {"files": {"model.ts": {"size": 1, "sha256": "zz"}}},
        {"dimensions": {}},
        {"created_at": "yesterday"},
    ],
)
def test_a_manifest_that_is_not_valid_is_refused(folder, changes):
    edit_manifest(folder, **changes)
    assert rejection(folder) == "manifest"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_manifest_that_is_not_a_json_object_is_refused(folder, content):
    (folder / "manifest.json").write_bytes(content)
    assert rejection(folder) == "manifest"


def test_a_manifest_that_is_far_too_large_is_refused_unread(folder):
    os.truncate(folder / "manifest.json", 1 << 30)
    assert rejection(folder) == "size"


def test_unknown_manifest_fields_are_ignored(folder):
    edit_manifest(folder, signature="…")
    read_artifact(folder)


@pytest.mark.parametrize("changed", [{"users": 5}, {"posts": 4}])
def test_a_vocabulary_of_another_size_than_the_manifest_says_is_refused(artifact, tmp_path, changed):
    dimensions = artifact.manifest.dimensions.model_copy(update=changed)
    folder = tmp_path / artifact.manifest.version
    write_artifact(with_manifest(artifact, dimensions=dimensions), folder)
    assert rejection(folder) == "dimensions"


@pytest.mark.parametrize("name", ["vocabulary.npz", "golden.npz"])
@pytest.mark.parametrize("content", [b"", b"PK not a zip"])
def test_an_array_file_with_a_right_digest_and_wrong_content_is_refused(folder, name, content):
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"][name] = digest(content).model_dump()
    edit_manifest(folder, **manifest)
    assert rejection(folder) == "content"


def test_a_vocabulary_that_lists_an_id_twice_is_refused(artifact, tmp_path):
    twice = replace(artifact.vocabulary, user_ids=np.array([10, 10, 20]))
    folder = tmp_path / artifact.manifest.version
    write_artifact(replace(artifact, vocabulary=twice), folder)
    assert rejection(folder) == "content"


def test_a_version_is_never_written_over_another(artifact, folder):
    before = sorted(folder.parent.iterdir())
    with pytest.raises(StoreUnavailable):
        write_artifact(artifact, folder)
    assert sorted(folder.parent.iterdir()) == before


def test_a_failed_write_leaves_no_files(artifact, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable):
        write_artifact(artifact, tmp_path / "file" / "version")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_manifest_that_promises_a_huge_file_is_refused_without_memory_for_it(folder):
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for size in (1 << 44, 1 << 80):
        manifest["files"]["model.ts"]["size"] = size
        edit_manifest(folder, **manifest)
        assert rejection(folder) == "size"


@pytest.mark.parametrize(
    "changes",
    [
        {"created_at": "2026-01-01T00:00:00"},  # in no time zone
        {"tolerances": {"float32": -1}},
        {"tolerances": {"float32": "NaN"}},
        {"tolerances": {"half": float("inf")}},
    ],
)
def test_a_time_without_a_zone_and_an_invalid_tolerance_are_refused(folder, changes):
    edit_manifest(folder, **changes)
    assert rejection(folder) == "manifest"
