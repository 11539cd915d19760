import os

import pytest

from animora_demo.embedded import EmbeddedError
from animora_demo.embedded.account import Account, unprivileged_account
from animora_demo.embedded.home import settle


def test_a_directory_with_a_short_path_is_its_own_home(server_directory):
    directory = server_directory / "home"
    assert settle(directory, None) == directory
    assert directory.stat().st_mode & 0o777 == 0o700


def test_a_lost_home_is_created_again(tmp_path, forgotten_homes):
    directory = tmp_path / ("long-" * 20)
    first = settle(directory, None)
    first.rmdir()
    second = settle(directory, None)
    forgotten_homes.append(second)
    assert second.is_dir()
    assert settle(directory, None) == second


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_home_of_another_user_is_not_used(tmp_path, forgotten_homes):
    directory = tmp_path / ("long-" * 20)
    planted = settle(directory, None)
    forgotten_homes.append(planted)
    os.chown(planted, 1, 1)
    home = settle(directory, None)
    forgotten_homes.append(home)
    assert home != planted


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedError, match="cannot use"):
        settle(tmp_path / "file" / "directory", None)


def test_an_account_may_enter_a_directory_if_it_may_enter_all_parents(tmp_path):
    owner = tmp_path.stat().st_uid
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    assert Account(owner, 0).can_enter(private)
    assert not Account(owner + 1, 54321).can_enter(private)


@pytest.mark.skipif(os.geteuid() == 0, reason="root has no need to lend an account to itself")
def test_an_unprivileged_user_runs_servers_under_its_own_account():
    assert unprivileged_account() is None
