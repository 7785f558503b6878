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

_SUITE = "bookworm"
_KEPT = ROOT / "target"


class NotMade(Exception):
    """Says why, and what to do about it."""


class Kept:
    """A folder that `make` fills. The recipe is that of the source file that this is made in."""

    def __init__(
        self,
        name: str,
        what: str,
        recipe: Path,
        refusal: Callable[[], str],
        make: Callable[[Path], None],
    ) -> None:
        """`name` begins the folder's own; `what` is for people; `refusal` says why it cannot be of
        use here, and is empty when it can."""
        sources = recipe.read_bytes() + Path(__file__).read_bytes() + os.uname().machine.encode()
        self._place = _KEPT / f"{name}-{hashlib.sha256(sources).hexdigest()[:12]}"
        self._name, self._what, self._refusal, self._make = name, what, refusal, make

    def path(self) -> Path:
        """The folder, if it has been made and is of use here; NotMade else."""
        if why := self._refusal():
            raise NotMade(f"{self._what}: {why}")
        if not self._place.exists():
            raise NotMade(f"{self._what}: run `make image` as root")
        return self._place

    def make(self) -> Path:
        """The folder, which is made first if need be: from a package archive, so not from within a
        network namespace."""
        if why := self._refusal():
            raise NotMade(f"{self._what}: {why}")
        if shutil.which("mmdebstrap") is None:
            raise NotMade(f"{self._what}: mmdebstrap is not installed")
        _KEPT.mkdir(exist_ok=True)
        with (_KEPT / f"{self._name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._place.exists():
                unfinished = self._place.with_suffix(".unfinished")
                shutil.rmtree(unfinished, ignore_errors=True)
                self._make(unfinished)
                for old in _KEPT.glob(f"{self._name}-*"):
                    if old != unfinished:
                        shutil.rmtree(old)
                unfinished.rename(self._place)
        return self._place

    def main(self) -> int:
        """`make`, as a program."""
        try:
            made = self.make()
        except NotMade as error:
            print(f"NOT MADE: {error}", file=sys.stderr)
            return 1 if os.environ.get("CI") else 0
        print(f"{self._what}: {made.relative_to(ROOT)}")
        return 0


def install(root: Path, packages: tuple[str, ...], *options: str) -> None:
    """By mmdebstrap, with these options of its."""
    command = [
        "mmdebstrap",
        "--mode=root",
        f"--include={','.join(packages)}",
        *options,
        _SUITE,
        str(root),
        *_mirror(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(root, ignore_errors=True)
        errors = [line for line in done.stderr.splitlines() if line.startswith("E: ")]
        raise NotMade(f"mmdebstrap: {'; '.join(errors) or done.stderr[-500:]}")


def _mirror() -> list[str]:
    """Where this machine gets the suite's packages from, if it is Debian and does; mmdebstrap knows
    another place."""
    columns = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
    command = ["apt-get", "indextargets", "--format", columns, "Created-By: Packages"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    known = [line.split() for line in done.stdout.splitlines()]
    return [uri for uri, *of in known if of == [_SUITE, "main"]][:1]
