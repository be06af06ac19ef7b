"""Who could change a file: the way to it, and the names of those who could."""

import os
import stat

import pytest

from aiopool._runtime.file_trust import read_regular_file, who_can_change, who_can_write

NOBODY = 54_321  # no user and no group of this machine


def information(mode, uid, gid):
    """Return what the system would say of a file of somebody's."""
    return os.stat_result((mode, 1, 1, 1, uid, gid, 0, 0, 0, 0))


def test_the_way_goes_up_as_well(tmp_path):
    """`..` is followed as the kernel follows it, and symbolic links with it."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "deep" / "link").symlink_to("../file")
    assert who_can_change(tmp_path / "deep" / ".." / "file") == who_can_change(tmp_path / "file")
    assert who_can_change(tmp_path / "deep" / "link") == who_can_change(tmp_path / "file")


def test_links_that_never_end_are_an_error(tmp_path):
    """As for the kernel."""
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="too many symbolic links on the way to"):
        who_can_change(tmp_path / "loop")


def test_a_user_without_a_name_is_named_by_the_number(tmp_path):
    """A container has files of users whom it does not know."""
    assert who_can_write(tmp_path, information(stat.S_IFREG | 0o600, NOBODY, 0)) == (
        f"{str(tmp_path)!r} belongs to the user {NOBODY}"
    )


def test_a_group_without_a_name_is_named_by_the_number(tmp_path):
    """Whoever is in it."""
    told = who_can_write(tmp_path, information(stat.S_IFREG | 0o660, os.geteuid(), NOBODY))
    assert told == f"{str(tmp_path)!r} can be changed by its group, {NOBODY}"


def test_groups_and_users_have_names(tmp_path):
    """Somebody else's file names its owner; that of a group with others in it names the group."""
    pytest.importorskip("grp")
    import grp
    import pwd

    other = next(user for user in pwd.getpwall() if user.pw_uid not in (0, os.geteuid()))
    assert who_can_write(tmp_path, information(stat.S_IFREG | 0o600, other.pw_uid, 0)) == (
        f"{str(tmp_path)!r} belongs to the user {other.pw_name}"
    )
    group = next(each for each in grp.getgrall() if each.gr_gid != 0 and each.gr_name != pwd.getpwuid(os.geteuid())[0])
    assert who_can_write(tmp_path, information(stat.S_IFREG | 0o660, os.geteuid(), group.gr_gid)) == (
        f"{str(tmp_path)!r} can be changed by its group, {group.gr_name}"
    )
    assert who_can_write(tmp_path, information(stat.S_IFREG | 0o660, os.geteuid(), 0)) is None
    assert "everybody" in str(who_can_write(tmp_path, information(stat.S_IFREG | 0o666, os.geteuid(), 0)))


def test_a_file_may_be_as_long_as_the_limit_and_no_longer(tmp_path):
    """The last byte that is allowed is read."""
    file = tmp_path / "file"
    for length in (0, 1024):
        file.write_bytes(b"x" * length)
        content, info = read_regular_file(file, max_bytes=1024)
        assert len(content) == info.st_size == length
    file.write_bytes(b"x" * 1025)
    with pytest.raises(ValueError, match="it is larger than 1 KiB"):
        read_regular_file(file, max_bytes=1024)


def test_only_a_regular_file_is_read(tmp_path):
    """The error says what it is; a pipe is not waited for."""
    with pytest.raises(ValueError, match="it is a directory"):
        read_regular_file(tmp_path, max_bytes=1)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="it is no regular file"):
        read_regular_file(tmp_path / "pipe", max_bytes=1)
    with pytest.raises(ValueError, match="its name has a NUL"):
        read_regular_file(tmp_path / "a\0b", max_bytes=1)
