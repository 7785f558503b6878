"""What `make` says where something is missing, and what it installs: on a machine that has only the
programs which a test gives it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.nat import ROOT

X86, ARM64, MUSL = (
    "x86_64-unknown-linux-gnu",
    "aarch64-unknown-linux-gnu",
    "x86_64-unknown-linux-musl",
)
# What every machine has, and the Makefile asks.
SYSTEM = (
    *("awk", "cat", "comm", "cut", "find", "getconf", "head", "make", "sed", "sort"),
    *("tr", "uname"),
)
# Of Rust with the standard libraries of two targets.
RUSTC = """\
case $1 in
-vV) echo "host: {host}" ;;
-V) echo "rustc 1.999.0 (a comment)" ;;
--print) echo "{sysroot}" ;;
esac
"""
LINKER = "aarch64-linux-gnu-gcc"
ROOT_USER, SOMEBODY = "echo 0", "echo 1000"


class Computer:
    """Has all that builds and packages take, until something is taken away. None of it works."""

    def __init__(self, folder: Path) -> None:
        self._programs, sysroot = folder / "bin", folder / "sysroot"
        self._programs.mkdir()
        for name in SYSTEM:
            found = shutil.which(name)
            assert found, name
            (self._programs / name).symlink_to(found)
        for target in (X86, ARM64):
            (sysroot / "lib/rustlib" / target).mkdir(parents=True)
        self.add("rustc", RUSTC.format(host=X86, sysroot=sysroot))
        for name in ("cargo", "cc", "python3", LINKER, "cargo-deb", "cargo-generate-rpm"):
            self.add(name, "exit 1")

    def add(self, name: str, script: str) -> None:
        program = self._programs / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    def remove(self, name: str) -> None:
        (self._programs / name).unlink()

    def make(self, *words: str) -> subprocess.CompletedProcess[str]:
        """PATH as a word of make's wins over the Makefile's, which finds what `make tools` made."""
        path = str(self._programs)
        return subprocess.run(
            [*("make", f"PATH={path}"), *words],
            cwd=ROOT,
            env={"PATH": path},
            capture_output=True,
            text=True,
            timeout=300,
        )


@pytest.fixture
def computer(tmp_path) -> Computer:
    return Computer(tmp_path)


def assert_stopped(done: subprocess.CompletedProcess[str], advice: str) -> None:
    """With that line, and before anything was done."""
    said = [
        line for line in done.stderr.splitlines() if not re.match(r"make(\[1\])?: \*\*\*", line)
    ]
    assert said == [advice], done
    assert done.returncode == 2
    assert "== " not in done.stdout


@pytest.mark.parametrize(
    ("target", "missing", "advice"),
    [
        (
            X86,
            "cargo",
            "cargo is missing; install Rust (rustup, or your distribution) {rust} or later",
        ),
        (X86, "cc", "a C compiler is missing; install: gcc and libc6-dev (Debian), gcc (Fedora)"),
        (
            ARM64,
            LINKER,
            f"{LINKER} is missing, which links for {ARM64}; "
            "install: gcc-aarch64-linux-gnu libc6-dev-arm64-cross (Debian)",
        ),
        (
            MUSL,
            None,
            f"this Rust toolchain has no standard library for {MUSL}; "
            f"run: rustup target add {MUSL} "
            "(without rustup on Debian, install: rustc-web cargo-web rust-web-src)",
        ),
    ],
)
@pytest.mark.parametrize("goal", ["build", "dist"])
def test_what_is_missing_is_named_before_anything_is_built(computer, goal, target, missing, advice):
    if missing:
        computer.remove(missing)
    before = sorted((ROOT / "dist").glob("*"))
    done = computer.make(goal, f"TARGET={target}", "RUST_VERSION=1.94.1")
    assert_stopped(done, advice.format(rust="1.94.1"))
    assert sorted((ROOT / "dist").glob("*")) == before


def test_a_rust_that_is_too_old_or_none_is_told_of(computer):
    """Cargo's own words for it are about a lock file."""
    computer.add("rustc", f'[ "$1" = -vV ] && echo "host: {X86}" || echo "rustc 1.63.0"')
    done = computer.make("build", "RUST_VERSION=1.94.1")
    assert_stopped(done, "Rust 1.94.1 or later is needed, this is rustc 1.63.0")
    computer.add("rustc", "echo 'error: no default toolchain is configured' >&2; exit 1")
    done = computer.make("build")
    assert_stopped(done, "rustc does not run: error: no default toolchain is configured")


@pytest.mark.parametrize("tool", ["cargo-deb", "cargo-generate-rpm"])
def test_what_makes_packages_is_missing(computer, tool):
    computer.remove(tool)
    assert_stopped(computer.make("dist"), f"{tool} is missing; run: make tools")


@pytest.mark.parametrize(
    ("python", "advice"),
    [
        (None, "python3 is missing; install: python3"),
        (
            'case "$*" in *version_info*) exit 1 ;; -V) echo "Python 3.9.2" ;; esac',
            "Python 3.11 or later is needed, python3 is Python 3.9.2",
        ),
        (
            'case "$*" in *ensurepip*) exit 1 ;; esac',
            "python3 lacks its venv module; install: python3-venv",
        ),
    ],
)
def test_python_is_missing_something(computer, python, advice):
    if python is None:
        computer.remove("python3")
    else:
        computer.add("python3", python)
    done = computer.make("--what-if=requirements.txt", ".venv/ready")
    assert_stopped(done, advice)


# --- Debian's packages ----------------------------------------------------------------------------


@pytest.fixture
def debian(computer, tmp_path) -> Computer:
    """That has none of the packages, and where what is called of apt-get is written to a file."""
    computer.add("apt-get", f'echo "$*" >>{tmp_path}/called')
    computer.add("dpkg-query", "exit 1")
    computer.add("id", ROOT_USER)
    return computer


def test_packages_that_are_missing_are_installed(debian, tmp_path):
    done = debian.make("debian-packages")
    assert done.returncode == 0, done.stderr
    update, install = (tmp_path / "called").read_text().splitlines()
    assert update.split()[0] == "update"
    wanted = {word for word in install.split() if not word.startswith("-")} - {"install"}
    assert {"nftables", "iptables", "mmdebstrap", "qemu-user-static", "man-db", "rpm"} <= wanted

    (tmp_path / "called").unlink()
    there = "".join(f"{name} installed\\n" for name in sorted(wanted - {"rpm"}))
    debian.add("dpkg-query", f"printf '{there}rpm config-files\\n'")
    assert debian.make("debian-packages").returncode == 0
    *_, install = (tmp_path / "called").read_text().splitlines()
    assert install.split()[-1] == "rpm"
    assert not wanted - {"rpm"} & set(install.split())

    (tmp_path / "called").unlink()
    debian.add("dpkg-query", f"printf '{there}rpm installed\\n'")
    debian.add("id", SOMEBODY)
    done = debian.make("debian-packages")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "called").exists()


def test_packages_take_root(debian, tmp_path):
    debian.add("id", SOMEBODY)
    done = debian.make("debian-packages")
    assert done.returncode == 2
    assert "run this as root; it installs:" in done.stderr
    assert " rpm " in done.stderr
    assert not (tmp_path / "called").exists()


def test_elsewhere_the_packages_are_named(computer):
    done = computer.make("debian-packages")
    assert done.returncode == 2
    assert "there is no apt-get; install what has here what Debian has in: " in done.stderr
