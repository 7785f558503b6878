"""What the world makes of Debian's packages: once, kept below target/, and made anew when its
recipe changes."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.nat import ROOT
from tests.skipping import IMAGE, PACKAGES, with_takes

_SUITE = "bookworm"
KEPT = ROOT / "target"


class NotMade(Exception):
    """Says why; `takes` is what it takes, of what tests/skipping.py lists."""

    def __init__(self, why: str, *takes: str) -> None:
        super().__init__(why)
        self.takes = takes


class Kept:
    """A folder that `make` fills. The recipe is that of the source file that this is made in."""

    def __init__(
        self,
        name: str,
        what: str,
        recipe: Path,
        check: Callable[[], None],
        make: Callable[[Path], None],
    ) -> None:
        """`name` begins the folder's own; `what` is for people; `check` raises NotMade where it
        can be of no use."""
        sources = recipe.read_bytes() + Path(__file__).read_bytes() + os.uname().machine.encode()
        self._place = KEPT / f"{name}-{hashlib.sha256(sources).hexdigest()[:12]}"
        self._name, self._what, self._check, self._make = name, what, check, make

    def path(self) -> Path:
        """The folder, if it has been made and is of use here; NotMade else."""
        made = self._place.exists()
        takes = [] if made else [IMAGE] if shutil.which("mmdebstrap") else [PACKAGES, IMAGE]
        self._must_be_of_use(*takes)
        if not made:
            raise NotMade(f"{self._what}: it has not been made", *takes)
        return self._place

    def _must_be_of_use(self, *takes: str) -> None:
        """`takes` is what it takes besides."""
        try:
            self._check()
        except NotMade as error:
            more = takes if error.takes else ()
            raise NotMade(f"{self._what}: {error}", *error.takes, *more) from None

    def make(self) -> Path:
        """The folder, which is made first if need be: from a package archive, so not from within a
        network namespace."""
        self._must_be_of_use()
        if shutil.which("mmdebstrap") is None:
            raise NotMade(f"{self._what}: mmdebstrap is not installed", PACKAGES)
        KEPT.mkdir(exist_ok=True)
        with (KEPT / f"{self._name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._place.exists():
                unfinished = self._place.with_suffix(".unfinished")
                shutil.rmtree(unfinished, ignore_errors=True)
                self._make(unfinished)
                for old in KEPT.glob(f"{self._name}-*"):
                    if old != unfinished:
                        shutil.rmtree(old)
                unfinished.rename(self._place)
        return self._place

    def main(self) -> int:
        """`make`, as a program."""
        try:
            made = self.make()
        except NotMade as error:
            print(f"NOT MADE: {with_takes(str(error), *error.takes)}", file=sys.stderr)
            return 1 if os.environ.get("CI") else 0
        print(f"{self._what}: {made.relative_to(ROOT)}")
        return 0


def install(
    root: Path, packages: tuple[str, ...], *options: str, with_updates: bool = False
) -> None:
    """By mmdebstrap, with these options of its."""
    suites = (_SUITE, f"{_SUITE}-security") if with_updates else (_SUITE,)
    command = [
        "mmdebstrap",
        "--mode=root",
        f"--include={','.join(packages)}",
        *options,
        _SUITE,
        str(root),
        *(line for suite in suites for line in _source(suite)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(root, ignore_errors=True)
        errors = [line for line in done.stderr.splitlines() if line.startswith("E: ")]
        raise NotMade(f"mmdebstrap: {'; '.join(errors) or done.stderr[-500:]}")


def _source(suite: str) -> list[str]:
    """Where this machine gets the suite's packages from, if it is Debian and does; mmdebstrap knows
    another place, for all that belongs to a suite."""
    columns = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
    command = ["apt-get", "indextargets", "--format", columns, "Created-By: Packages"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    known = [line.split() for line in done.stdout.splitlines()]
    return [f"deb {uri} {suite} main" for uri, *of in known if of == [suite, "main"]][:1]
