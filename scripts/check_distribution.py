"""Look into what would be published: `python scripts/check_distribution.py dist/*`.

A wheel has the package, its marker for type checkers and nothing else; a source distribution also has what is needed to
test it. Neither has anything that git does not know.
"""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def known() -> set[str]:
    """The files of the checkout: those of git, new ones included."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.check_output(command, cwd=ROOT, text=True, stderr=subprocess.DEVNULL).splitlines()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):  # not a git checkout: all there is, but what tools leave behind
        files = {path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file()}
        return {str(path) for path in files if "__pycache__" not in path.parts and not path.parts[0].startswith(".")}
    return {name for name in listed if (ROOT / name).is_file()}


def check(path: Path) -> None:
    """Raise SystemExit with what is wrong with a distribution."""
    files = known()
    package = {name for name in files if name.startswith("aiopool/")}
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            names = {name for name in archive.namelist() if ".dist-info/" not in name}
            metadata = next(archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA"))
        wanted, allowed = package, package
        if "License-Expression: MIT" not in metadata or "Requires-Python: >=3.11" not in metadata:
            raise SystemExit(f"{path.name}: its metadata lacks the licence or the versions of Python")
    else:
        with tarfile.open(path) as archive:
            names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
        tests = {name for name in files if name.startswith(("tests/", "examples/"))}
        wanted, allowed = (
            package | tests | {"README.md", "LICENSE", "pyproject.toml"},
            files | {"PKG-INFO", ".gitignore"},
        )
    missing, strange = sorted(wanted - names), sorted(names - allowed)
    if missing or strange:
        raise SystemExit(f"{path.name}: missing {missing}, not of the checkout {strange}")
    print(f"{path.name}: {len(names)} files")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        check(Path(argument))
