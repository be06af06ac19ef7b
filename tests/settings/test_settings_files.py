"""`.env` and the three formats of files; and whose files are trusted."""

import logging
import os
import sys
import time
from pathlib import Path

import pytest
from settings.support import only, refused

from aiopool import Retry
from aiopool.settings import PoolSettings

# -- .env --------------------------------------------------------------------------------------------------------------


def test_dotenv(monkeypatch):
    """Comments, quotes, `export`, a byte order mark; what is not ours is not looked at."""
    Path(".env").write_text(
        "\ufeffAIOPOOL_NAME='a b' # comment\n\n# no\nexport AIOPOOL_SIZE=12\nURL=${NOWHERE}\nPASSWORD=x y z\n"
        "AIOPOOL_SEED=1\nAIOPOOL_SEED=2\n",
        encoding="utf-8",
    )
    made = PoolSettings()
    assert (made.name, made.size, made.seed) == ("a b", 12, 2)
    assert made.origins["size"] == ".env line 4, AIOPOOL_SIZE"
    assert made.origins["seed"] == ".env line 8, AIOPOOL_SEED"
    assert PoolSettings.load(env_file=None) == PoolSettings.from_dict({})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("AIOPOOL_SIZE", "it has no value"),
        ("AIOPOOL_SIZE 4", "cannot be read"),
        ("AIOPOOL_SIZE='4", "cannot be read"),
        ("AIOPOOL_SIZE=", "it is empty"),
        ("AIOPOOL_NAME=a\0b", "control characters"),
        ("AIOPOOL_FILE=evil.yaml", "cannot choose"),
        ("AIOPOOL_ON_ERROR=os:system", "names code"),
        ("AIOPOOL_NAME=${DATABASE_PASSWORD}", "refers to another variable"),
        ("AIOPOOL_NAME='a ${FINE} b'", "refers to another variable"),
        ("aiopool_name=${NOWHERE:-default}", "refers to another variable"),
    ],
)
def test_bad_lines_of_dotenv(text, reason, monkeypatch):
    """The reason says what to write; the secret of another variable goes nowhere."""
    monkeypatch.setenv("DATABASE_PASSWORD", SECRET)
    Path(".env").write_text(f"\nFINE=1\n{text}\n")
    problem = only(PoolSettings)
    assert problem.source.startswith(".env line 3")
    assert reason in problem.reason


def test_a_bad_line_of_somebody_else_is_not_our_business():
    Path(".env").write_text("what is this\nAIOPOOL_SIZE=4\n")
    assert PoolSettings().size == 4


def test_env_files(here):
    """`.env` may be missing, or a virtual environment; one that was asked for may not."""
    (here / ".env").mkdir()
    assert PoolSettings().size == 10
    (here / "b.env").write_text("AIOPOOL_SIZE=4")
    assert PoolSettings.load(env_file=here / "b.env").size == 4
    assert only(PoolSettings.load, env_file="none.env").reason == "there is no such file"
    assert only(PoolSettings.load, env_file=".env").reason == "it is a directory"
    (here / "c.env").write_bytes(b"AIOPOOL_SIZE=\xff")
    assert "not UTF-8" in only(PoolSettings.load, env_file="c.env").reason


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "size: 4\nretry: {attempts: 2}\n"),
        ("a.yml", "size: 4\nretry:\n  attempts: 2\n"),
        ("a.toml", "size = 4\n[retry]\nattempts = 2\n"),
        ("a.json", '{"size": 4, "retry": {"attempts": 2}}'),
        ("A.JSON", '{"size": "4", "retry": {"attempts": "2"}}'),
    ],
)
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "bom"])
def test_the_three_formats(name, text, mark, monkeypatch):
    Path(name).write_text(mark + text, encoding="utf-8")
    expected = PoolSettings.from_dict({"size": 4, "retry": {"attempts": 2}})
    assert PoolSettings.load(name) == expected
    assert PoolSettings.load(Path(name)) == expected
    monkeypatch.setenv("AIOPOOL_FILE", name)
    assert PoolSettings() == PoolSettings.load() == expected
    (Path(name).parent / "other.json").write_text('{"size": 7}')
    assert PoolSettings.load("other.json").size == 7  # the argument chooses, not the variable


YAML_BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + level)}: &{chr(98 + level)} [{','.join([f'*{chr(97 + level)}'] * 9)}]\n" for level in range(8)
)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.ini", "", "its name must end in one of .yaml, .yml, .toml, .json"),
        ("a", "", "its name must end in"),
        ("a.yaml", "!!python/object/apply:os.system ['touch pwned']", "the tag"),
        ("a.yaml", "size: !!python/object/apply:os.system ['touch pwned']", "line 1: the tag"),
        ("a.yaml", "size: !!python/name:os.system", "the tag"),
        ("a.yaml", "size: !mine 4", "the tag '!mine' is not read"),
        ("a.yaml", YAML_BOMB, "more than 20000 values, aliases included"),
        ("a.yaml", "a: &a {b: *a}", "nested too deeply"),
        ("a.yaml", "a: &a [*a]", "nested too deeply"),
        ("a.yaml", "a: " + "[" * 5000, "nested too deeply"),
        ("a.yaml", "a: " + "[" * 50 + "]" * 50, "nested too deeply"),
        ("a.yaml", "size: 4\nname: x\nsize: 5", "line 3: the key 'size' stands there twice"),
        ("a.yaml", "retry: {delay: 1, delay: 2}", "the key 'delay' stands there twice"),
        ("a.yaml", "- size\n- 4", "mapping of settings, such as `size: 4`, not a list"),
        ("a.yaml", "size", "not a str"),
        ("a.yaml", "retry:\n\tattempts: 4", "cannot start any token; YAML is indented by spaces"),
        ("a.yaml", "size: [4", "it is not YAML, line 1"),
        ("a.yaml", "size: *nothing", "undefined alias"),
        ("a.yaml", "size: 4\n---\nsize: 5", "single document"),
        ("a.yaml", "? [a]\n: 4", "a key must be a word"),
        ("a.yaml", "<<: 4", "<< merges mappings only"),
        ("a.yaml", "name: a\0b", "not YAML"),
        ("a.yaml", "#" * 10_000_000, "larger than 64 KiB"),
        ("a.yaml", b"size: \xff", "not UTF-8"),
        ("a.yaml", "size: 4".encode("utf-16"), "not UTF-8"),
        ("a.json", "", "not JSON"),
        ("a.json", "[4]", "not a list"),
        ("a.json", '{"size": 4, "size": 5}', "the key 'size' stands there twice"),
        ("a.json", '{"timeout": Infinity}', 'write "inf"'),
        ("a.json", '{"timeout": NaN}', "not JSON"),
        ("a.json", '{"a": ' + "[" * 30_000, "nested too deeply"),
        ("a.json", '{"seed": ' + "9" * 10_000 + "}", "cannot be read"),
        ("a.json", '{"size": 4} x', "not JSON"),
        ("a.toml", "size = ", "not TOML"),
        ("a.toml", "size = 4\nsize = 5", "not TOML"),
        ("a.toml", "a = " + "[" * 50_000, "nested too deeply"),
    ],
)  # fmt: skip
def test_bad_files(name, content, reason, here):
    """Each is refused with a reason, quickly, and nothing in it runs."""
    (here / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    error = refused(PoolSettings.load, name, size=0)
    assert [problem.name for problem in error.problems] == ["file", "size"]  # the others are told nevertheless
    assert error.problems[0].value == repr(name)
    assert reason in error.problems[0].reason
    assert not (here / "pwned").exists()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "there is no such file"),
        (Path.mkdir, "it is a directory"),
        (os.mkfifo, "it is no regular file"),
        (lambda path: path.symlink_to(path), "it cannot be opened: Too many levels"),
        (lambda path: path.symlink_to("/dev/zero"), "it is no regular file"),
    ],
    ids=["missing", "directory", "fifo", "circle", "device"],
)
def test_what_is_no_file(make, reason, here, monkeypatch):
    """Nothing hangs."""
    make(here / "a.yaml")
    assert reason in only(PoolSettings.load, "a.yaml").reason
    monkeypatch.setenv("AIOPOOL_FILE", "a.yaml")
    problem = only(PoolSettings)
    assert problem.source == "environment variable AIOPOOL_FILE"
    assert reason in problem.reason


def test_odd_file_names(here, monkeypatch):
    for name in ("a\0.yaml", "x" * 5000 + ".yaml"):
        assert "it cannot be opened" in only(PoolSettings.load, name).reason
    monkeypatch.setenv("AIOPOOL_FILE", "")
    assert "it is empty" in only(PoolSettings).reason


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(here):
    (here / "a.yaml").touch(mode=0)
    assert "it cannot be opened: Permission denied" in only(PoolSettings.load, "a.yaml").reason


NOBODY = 65534


def _give_away(path: Path, **options: bool) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(path, NOBODY, NOBODY, **options)


def _share(path: Path, mode: int) -> None:
    _give_away(path)
    os.chown(path, 0, -1)
    path.chmod(mode)


def _behind_a_link(path: Path) -> None:
    path.rename(path.with_name("real.yaml"))
    path.symlink_to("real.yaml")
    _give_away(path, follow_symlinks=False)


def _behind_an_open_directory(path: Path) -> None:
    (directory := path.with_name("open")).mkdir()
    path.rename(directory / path.name)
    path.symlink_to(f"open/../open/{path.name}")
    directory.chmod(0o777)


@pytest.mark.parametrize(
    ("spoil", "who"),
    [
        (lambda path: path.chmod(0o602), "can be changed by everybody"),
        (lambda path: path.parent.chmod(0o777), "can be changed by everybody"),
        (_behind_an_open_directory, "open' can be changed by everybody"),
        (_give_away, "a.yaml' belongs to the user nobody"),
        (lambda path: _give_away(path.parent), "belongs to the user nobody"),
        (_behind_a_link, "a.yaml' belongs to the user nobody"),
        (lambda path: _share(path, 0o664), "a.yaml' can be changed by its group"),
        (lambda path: _share(path.parent, 0o775), "can be changed by its group"),
    ],
    ids=["mode", "directory", "a directory behind a link", "owner", "owner above", "link", "group", "group above"],
)
def test_a_file_that_others_can_change(spoil, who, tmp_path, monkeypatch):
    """It is read, with a warning, but it may name no code: nothing is imported."""
    directory = tmp_path / "settings"
    directory.mkdir()
    path = directory / "a.yaml"
    path.write_text("size: 4")
    (tmp_path / "evil.py").write_text("open('pwned', 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    spoil(path)
    with pytest.warns(RuntimeWarning, match=rf"{who}.*, so a\.yaml may name no code to import; .*chmod go-w"):
        assert PoolSettings.load(path).size == 4
    path.write_text("on_error: 'evil:thing'")
    with pytest.warns(RuntimeWarning):
        assert "it names code to import" in only(PoolSettings.load, path).reason
    assert "evil" not in sys.modules
    assert not Path("pwned").exists()


def test_the_way_to_a_file_is_the_one_that_the_system_goes(tmp_path):
    """`link/..` is the directory above the one that the link leads to."""
    inner = tmp_path / "open" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "link").symlink_to(inner)
    (tmp_path / "open" / "a.yaml").write_text("size: 4")
    (tmp_path / "open").chmod(0o777)
    with pytest.warns(RuntimeWarning, match="open' can be changed by everybody"):
        assert PoolSettings.load(tmp_path / "link" / ".." / "a.yaml").size == 4


def test_a_file_that_nobody_else_can_change(tmp_path, recwarn):
    """Of our own, or of root; in a directory with the sticky bit; for a group that is nobody else."""
    directory = tmp_path / "sticky"
    directory.mkdir()
    directory.chmod(0o1777)
    path = directory / "a.yaml"
    path.write_text("on_error: 'logging:error'")
    (tmp_path / "link.yaml").symlink_to(path)
    assert PoolSettings.load(tmp_path / "link.yaml").on_error is logging.error
    if os.geteuid() == 0:
        path.chmod(0o660)  # root's own group
        assert PoolSettings.load(path).on_error is logging.error
    assert not recwarn.list


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_dotenv_of_somebody_else(here):
    """Whoever plants one where a program is started is named in a warning."""
    (here / ".env").write_text("AIOPOOL_SIZE=4")
    os.chown(here / ".env", NOBODY, NOBODY)
    with pytest.warns(RuntimeWarning, match=r"env' belongs to the user nobody, and with it the settings"):
        assert PoolSettings().size == 4


SECRET = "hunter2"


@pytest.mark.parametrize(
    ("environ", "dotenv", "file"),
    [
        ({"AIOPOOL_PASSWORD": SECRET}, "", ""),
        ({"AIOPOOL_RETRY__PASSWORD": SECRET}, "", ""),
        ({"AIOPOOL_PASSWORD": SECRET, "aiopool_password": SECRET}, "", ""),
        ({"AIOPOOL_SIZE__PASSWORD": SECRET}, "", ""),
        ({"AIOPOOL_POOLS__MAIL__PASSWORD": SECRET}, "", ""),
        ({"AIOPOOL_POOLS": SECRET}, "", ""),
        ({"TOKEN": SECRET}, "AIOPOOL_NAME=${TOKEN}", ""),
        ({}, f"AIOPOOL_PASSWORD='{SECRET}", ""),
        ({}, f"AIOPOOL_PASSWORD={SECRET}", ""),
        ({}, "", f"password: {SECRET}"),
        ({}, "", f"database: {{password: {SECRET}}}"),
        ({}, "", f"pools: {{mail: {SECRET}}}"),
    ],
)
def test_no_error_shows_a_secret(environ, dotenv, file, here, monkeypatch):
    """The value of what is none of our settings is never shown."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    (here / ".env").write_text(dotenv)
    (here / "a.yaml").write_text(file)
    error = refused(PoolSettings.load, "a.yaml")
    assert SECRET not in str(error)
    assert SECRET not in repr(error.problems)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.toml", "a." * 30_000 + "a = 1"),
        ("a.toml", "[" + "a." * 30_000 + "a]"),
        ("a.toml", "a = {" + "a . " * 15_000 + "a = 1}"),
        ("a.toml", '"a".' * 15_000 + "a = 1"),
        ("a.toml", f"{'a.' * 200}a = 1\n" * 150),
        ("a.env", "AIOPOOL_" + "A__" * 20_000 + "A=1"),
        ("a.env", "AIOPOOL_NAME=" + "${" * 30_000),
        ("a.env", "AIOPOOL_" + "A" * 60_000 + "=1"),
    ],
)
def test_no_file_takes_long(name, text, here):
    """The time for a file grows with its size, and never with the square of that; nor does what an error says."""
    (here / name).write_text(text)
    began = time.process_time()
    error = refused(PoolSettings.load, **{"env_file" if name.endswith("env") else "file": name})
    assert time.process_time() - began < 2
    assert len(str(error)) < 2000


def test_no_variable_takes_long(monkeypatch):
    """A name with thousands of parts is refused like any other."""
    environ = {"AIOPOOL_" + "A__" * 20_000 + "A": "1"}
    assert "nested too deeply" in only(PoolSettings.load, environ=environ).reason


def test_a_reload_of_a_bad_file_changes_nothing():
    """What was loaded before stays as it was."""
    Path("a.yaml").write_text("size: 4")
    before = PoolSettings.load("a.yaml")
    Path("a.yaml").write_text("size: four")
    refused(PoolSettings.load, "a.yaml")
    assert before.size == 4


def test_yaml_is_not_guessed_at():
    """YAML 1.1 makes True of `on`, 90 of `1:30`, 8 of `010`. Here, the setting decides."""
    Path("a.yaml").write_text(
        "retry:\n  on: [ConnectionError, OSError]\nname: no\nhandle_signals: yes\nsize: 010\nseed: 1_0\ntimeout: 1e3\n"
    )
    made = PoolSettings.load("a.yaml")
    assert made.retry is not None
    assert made.retry.on == (ConnectionError, OSError)
    assert (made.name, made.handle_signals, made.size, made.seed, made.timeout) == ("no", True, 10, 10, 1000)
    Path("a.yaml").write_text("timeout: 1:30")
    assert only(PoolSettings.load, "a.yaml").value == "'1:30'"


def test_aliases_and_merges_are_read():
    Path("a.yaml").write_text(
        "retry: &patient {attempts: 9, delay: 2}\npools:\n  a:\n    retry: *patient\n"
        "  b:\n    retry: {<<: *patient, delay: 3}\n  c:\n    retry: {<<: [{delay: 5}, *patient]}\n"
    )
    pools = PoolSettings.load_all("a.yaml")
    assert [pools[name].retry for name in "abc"] == [Retry(attempts=9, delay=delay) for delay in (2, 3, 5)]
    assert pools["b"].origins["retry.delay"] == "a.yaml line 6"


@pytest.mark.parametrize("text", ["", "# nothing", "---\n", "{}"])
def test_an_empty_yaml_says_nothing(text):
    Path("a.yaml").write_text(text)
    assert PoolSettings.load("a.yaml") == PoolSettings()
