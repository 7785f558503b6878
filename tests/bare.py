"""A newcomer's machine: Debian with what the README asks for and nothing else, made by mmdebstrap,
where `make` runs all black-box tests as an ordinary user, and as root those that look for programs.

    python -m tests.bare [WORD…]

Words are make's instead, for both, such as `TESTS=tests/project/test_make.py black-box-tests`.

Its Python is the oldest that will do. Rust is this machine's own, without what it has for other
targets: a toolchain from rustup is mounted, Debian's is installed, since rustup cannot be had
everywhere. The binary is built already, which would take longer than all the rest. The kernel, its
/dev and /sys, and the way to Python's packages are this machine's, too; CI, which would have tests
fail instead of being skipped, is not set.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.nat import ROOT, binary_path
from tests.skipping import ROOT_RIGHTS, with_takes
from tests.world.debian import KEPT, Kept, NotMade, install

# The README's list; of Rust, what is installed where it does not come from rustup.
_PACKAGES = ("gcc", "libc6-dev", "make", "python3", "python3-venv")
_RUST_PACKAGES = ("rustc-web", "cargo-web")
_LEFT_OUT = ("doc", "i18n", "info", "locale", "man")
# What differs by what is installed and by who asks, as far as it is quick.
_AS_ROOT = (
    "deploy/test_scenes.py",
    "deploy/test_units.py",
    "kernel/test_setup.py",
    "project/test_bench.py",
    "project/test_make.py",
    "project/test_skipping.py",
    "release",
    "world/tests/test_downloads.py",
    "world/tests/test_system.py",
)
# What is not in a fresh clone.
_NOT_CLONED = (".git", ".venv", "target", "dist", "__pycache__", ".pytest_cache", ".ruff_cache")
# For pip: names, authorities and settings are the network's that this machine is in.
_FILES = ("/etc/hosts", "/etc/pip.conf", "/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt")
_USER = 1000
_HOME = Path("home/newcomer")
_PATH = "/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Runs a program with another root, which is no chroot: in one there are no user namespaces.
_ENTER = """
set -e
root=$0 files=$1 sysroot=$2 host=$3; shift 3
mount --bind "$root" "$root"
cd "$root"
mount --rbind /dev dev
mount --rbind /sys sys
mount -t proc proc proc
bind() { mount --bind "$1" "$2" && mount -o remount,bind,ro "$2"; }
for file in $files; do
    rm -f "${file#/}"
    : >"${file#/}"
    bind "$file" "${file#/}"
done
if [ -n "$sysroot" ]; then
    mkdir -p opt/rust/bin "opt/rust/lib/rustlib/$host"
    bind "$sysroot/bin" opt/rust/bin
    bind "$sysroot/lib/rustlib/$host" "opt/rust/lib/rustlib/$host"
    for library in "$sysroot"/lib/*.so*; do
        : >"opt/rust/lib/${library##*/}"
        bind "$library" "opt/rust/lib/${library##*/}"
    done
fi
pivot_root . mnt
cd /
umount -l mnt
exec "$@"
"""


def _must_be_root() -> None:
    if os.geteuid() != 0:
        raise NotMade("this takes root", ROOT_RIGHTS)


def _rustc(*question: str) -> str:
    return subprocess.run(["rustc", *question], capture_output=True, text=True, check=True).stdout


class Machine:
    """A copy of a root that is kept, with this tree as somebody has it who has cloned it and built
    the binary."""

    def __init__(self, folder: Path) -> None:
        self._root = folder / "root"
        self._sysroot = _rustc("--print", "sysroot").strip()
        [self._host] = re.findall("^host: (.*)$", _rustc("-vV"), re.M)
        if self._sysroot == "/usr":
            self._sysroot = ""
            kept = self._kept("bare-debian", *_RUST_PACKAGES)
        else:
            kept = self._kept("bare-rustup")
        subprocess.run(["cp", "--archive", "--reflink=auto", kept, self._root], check=True)
        tree = self._root / _HOME / "hanat"
        ignored = shutil.ignore_patterns(*_NOT_CLONED)
        shutil.copytree(ROOT, tree, symlinks=True, ignore=ignored)
        # Newer than what it is made of.
        binary = tree / "target" / self._host / "release" / "hanat"
        binary.parent.mkdir(parents=True)
        shutil.copy(binary_path(), binary)
        with (self._root / "etc/passwd").open("a") as users:
            users.write(f"newcomer:x:{_USER}:{_USER}::/{_HOME}:/bin/bash\n")
        owner = f"{_USER}:{_USER}"
        subprocess.run(["chown", "--recursive", owner, self._root / _HOME], check=True)

    def _kept(self, name: str, *more: str) -> Path:
        def make(root: Path) -> None:
            excluded = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _LEFT_OUT]
            options = ("--variant=minbase", *excluded)
            install(root, (*_PACKAGES, *more), *options, with_updates=bool(more))

        return Kept(name, "the bare machine", Path(__file__), _must_be_root, make).make()

    def make(self, *words: str, user: str) -> int:
        """Its exit code."""
        files = " ".join(file for file in _FILES if Path(file).exists())
        home, become = "/root", ["env"]
        if user != "root":
            home = f"/{_HOME}"
            become = ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups"]
        env = {name: value for name, value in os.environ.items() if _of_the_network(name)}
        env |= {"PATH": _PATH, "HOME": home, "USER": user, "LANG": "C.UTF-8"}
        unshare = [
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--",
            "sh",
            "-c",
            _ENTER,
        ]
        place = [self._root, files, self._sysroot, self._host]
        command = ["make", "--directory", f"/{_HOME}/hanat", *words]
        done = subprocess.run(
            [*unshare, *place, *become, *command], env=env, stdin=subprocess.DEVNULL, check=False
        )
        return done.returncode


def _of_the_network(variable: str) -> bool:
    if variable == "PIP_FIND_LINKS":
        # It may name folders of this machine.
        return False
    return variable.upper().endswith("_PROXY") or variable.startswith(("PIP_", "SSL_CERT_"))


def main() -> int:
    KEPT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="newcomer-", dir=KEPT) as folder:
        try:
            machine = Machine(Path(folder))
        except NotMade as error:
            print(with_takes(str(error), *error.takes), file=sys.stderr)
            return 1
        chosen = " ".join(f"tests/{name}" for name in _AS_ROOT)
        for user, tests in (("newcomer", "tests"), ("root", chosen)):
            print(f"== on a bare machine, as {user}", flush=True)
            words = sys.argv[1:] or ("image", "black-box-tests", f"TESTS={tests}")
            if code := machine.make(*words, user=user):
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
