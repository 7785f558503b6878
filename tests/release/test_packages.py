"""What `make dist` fills a folder with: the archive, the packages, templates that name them."""

import hashlib
import io
import re
import shutil
import subprocess
import tarfile
import tomllib
from pathlib import Path

import pytest
from cfnlint import decode

from tests import skipping
from tests.nat import ROOT, binary_path
from tests.skipping import not_tested, program

PACK = ROOT / "userdata" / "pack.sh"
FILL = ROOT / "cloudformation" / "fill.sh"
DIST = ROOT / "dist"
FILES = {
    "/usr/bin/hanat": 0o755,
    "/usr/lib/systemd/system/hanat-claim.service": 0o644,
    "/usr/lib/systemd/system/hanat-watch.service": 0o644,
    "/usr/share/man/man8/hanat.8": 0o644,
}
URL = "https://downloads.example.com/hanat/0.9.9"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def contents(archive: tarfile.TarFile) -> dict[str, bytes]:
    """Of the regular files, by path."""
    files = (member for member in archive.getmembers() if member.isfile())
    return {f"/{member.name.removeprefix('./')}": read(archive, member) for member in files}


def read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file
    return file.read()


# --- The archive ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "hanat.tar.gz"
    subprocess.run([PACK, binary_path(), path], check=True)
    return path


def test_the_archive_holds_what_is_installed_and_owns_nothing_else(archive):
    with tarfile.open(archive) as content:
        members = content.getmembers()
        assert {f"/{member.name}": member.mode for member in members} == FILES
        assert {(member.uid, member.gid) for member in members} == {(0, 0)}
        assert contents(content)["/usr/bin/hanat"] == binary_path().read_bytes()


def test_packed_again_it_is_the_same(archive, tmp_path):
    again = tmp_path / "again.tar.gz"
    subprocess.run([PACK, binary_path(), again], check=True)
    assert again.read_bytes() == archive.read_bytes()


# --- The templates --------------------------------------------------------------------------------


@pytest.fixture
def release(tmp_path) -> Path:
    """A folder with the templates and an archive for x86_64."""
    for template in (ROOT / "cloudformation").glob("*.yaml"):
        shutil.copy(template, tmp_path)
    (tmp_path / "hanat-0.9.9-x86_64-unknown-linux-gnu.tar.gz").write_bytes(b"an archive")
    return tmp_path


def fill(folder: Path, *url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([FILL, folder, "0.9.9", *url], capture_output=True, text=True)


def parameters(folder: Path, template: str) -> dict[str, dict[str, str]]:
    content, problems = decode.decode(str(folder / template))
    assert not problems
    return content["Parameters"]


def default(folder: Path, template: str, name: str) -> str:
    return parameters(folder, template)[name]["Default"]


def defaults(folder: Path, template: str) -> dict[str, str]:
    """Those of the parameters that are about archives."""
    return {
        name: parameter["Default"]
        for name, parameter in parameters(folder, template).items()
        if name.startswith("Hanat") and "Default" in parameter
    }


@pytest.mark.parametrize("template", ["ha-nat.yaml", "ha-nat-vpc.yaml"])
def test_templates_name_the_archives_that_are_there(release, template):
    done = fill(release, URL)
    assert (done.returncode, done.stderr) == (0, "")
    assert defaults(release, template) == {
        "HanatUrlX86": f"{URL}/hanat-0.9.9-x86_64-unknown-linux-gnu.tar.gz",
        "HanatSha256X86": digest(b"an archive"),
        "HanatUrlArm64": "",
        "HanatSha256Arm64": "",
    }
    assert default(release, template, "InstanceType") == "t3.nano", "of that architecture"
    arm = b"another archive"
    (release / "hanat-0.9.9-aarch64-unknown-linux-gnu.tar.gz").write_bytes(arm)
    shutil.copy(ROOT / "cloudformation" / template, release)
    fill(release, "s3://bucket/hanat")
    filled = defaults(release, template)
    assert default(release, template, "InstanceType") == "t4g.nano"
    assert len(filled) == 4
    expected = "s3://bucket/hanat/hanat-0.9.9-aarch64-unknown-linux-gnu.tar.gz"
    assert filled["HanatUrlArm64"] == expected
    assert filled["HanatSha256Arm64"] == digest(arm)


def test_without_a_url_the_templates_go_on_asking_for_it(release):
    assert fill(release).returncode == 0
    filled = defaults(release, "ha-nat.yaml")
    assert "HanatUrlX86" not in filled
    assert filled["HanatSha256X86"] == digest(b"an archive")


@pytest.mark.parametrize(
    "url",
    [
        "http://a.example/b",
        "https://a.example/b/",
        "b",
        "s3://",
        "https://a.example/b?c&d",
        "s3://A/b",
    ],
)
def test_a_url_that_cannot_be_is_refused(release, url):
    done = fill(release, url)
    assert done.returncode == 2
    assert url in done.stderr
    assert defaults(release, "ha-nat.yaml") == {}


# --- The packages ---------------------------------------------------------------------------------


# By target: the deb's and the rpm's name of the architecture, and what readelf says of the binary;
# Rust makes no static binaries for arm64 that are position-independent (rustc's target
# specification: static-position-independent-executables).
ARCHITECTURES = {
    "x86_64-unknown-linux-gnu": ("amd64", "x86_64", "Advanced Micro Devices X86-64", "DYN"),
    "aarch64-unknown-linux-gnu": ("arm64", "aarch64", "AArch64", "EXEC"),
}


@pytest.fixture(params=ARCHITECTURES)
def target(request) -> str:
    return request.param


def made(target: str, suffix: str = "") -> Path:
    """What `make dist` has made for this target."""
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    path = DIST / f"hanat-{version}-{target}{suffix}"
    if not path.exists():
        not_tested(f"there is no {path.name}", skipping.DIST)
    if reader := {".deb": "dpkg-deb", ".rpm": "rpm"}.get(suffix):
        program(reader)
    return path


def ask(*command: str | Path) -> bytes:
    return subprocess.run(command, capture_output=True, check=True).stdout


def test_what_dist_is_made_of_fits_its_sums():
    if not (DIST / "SHA256SUMS").exists():
        not_tested("there is no dist", skipping.DIST)
    lines = (DIST / "SHA256SUMS").read_text().splitlines()
    sums = {name: total for total, name in (line.split("  ") for line in lines)}
    found = {path.name for path in DIST.iterdir()}
    assert {name.rpartition(".")[2] for name in found} >= {"gz", "deb", "rpm", "yaml", "hcl"}
    assert {name for name in found if name.endswith("-linux-gnu")} == {
        made(target).name for target in ARCHITECTURES
    }
    assert set(sums) == found - {"SHA256SUMS"}
    assert all(digest((DIST / name).read_bytes()) == total for name, total in sums.items())


def test_the_binary_is_static_small_and_knows_no_machine(target):
    binary = made(target)
    read = ask(
        program("readelf"), "--wide", "--file-header", "--segments", "--dynamic", binary
    ).decode()
    *_, machine, kind = ARCHITECTURES[target]
    assert re.search(rf"Machine: +{machine}$", read, re.MULTILINE)
    assert re.search(rf"Type: +{kind} ", read)
    assert "INTERP" not in read
    assert "NEEDED" not in read
    content = binary.read_bytes()
    # Debian's toolchain for x86-64 does without Rust's own linker, which saves half a megabyte.
    if kind == "EXEC" or b"Linker: LLD" in content:
        assert len(content) <= 6 << 20
    for place in (ROOT, Path.home() / ".cargo"):
        assert bytes(place) not in content


def test_the_archive_holds_the_binary(target):
    with tarfile.open(made(target, ".tar.gz")) as content:
        found = contents(content)
    assert set(found) == set(FILES)
    assert found["/usr/bin/hanat"] == made(target).read_bytes()


def test_the_deb_holds_what_the_archive_does(target):
    package = made(target, ".deb")
    with tarfile.open(fileobj=io.BytesIO(ask("dpkg-deb", "--fsys-tarfile", package))) as content:
        found = contents(content)
    with tarfile.open(made(target, ".tar.gz")) as content:
        expected = contents(content)
    manual = "/usr/share/man/man8/hanat.8"
    assert set(found) == set(FILES) - {manual} | {f"{manual}.gz", "/usr/share/doc/hanat/copyright"}
    for path in set(FILES) - {manual}:
        assert found[path] == expected[path]
    assert ask("dpkg-deb", "--field", package, "Depends").strip() == b""
    architecture = ask("dpkg-deb", "--field", package, "Architecture").decode().strip()
    assert architecture == ARCHITECTURES[target][0]


def test_the_rpm_holds_what_the_archive_does(target):
    package = made(target, ".rpm")
    lines = ask("rpm", "--query", "--package", "--dump", package).decode().splitlines()
    fields = [line.split() for line in lines]
    with tarfile.open(made(target, ".tar.gz")) as content:
        expected = {path: digest(data) for path, data in contents(content).items()}
    assert {path: total for path, _, _, total, *_ in fields} == expected
    assert {path: int(mode, 8) & 0o777 for path, _, _, _, mode, *_ in fields} == FILES
    needs = ask("rpm", "--query", "--package", "--requires", package).decode().split("\n")
    assert {need for need in needs if need and not need.startswith("rpmlib(")} == {"/bin/sh"}
    architecture = ask("rpm", "--query", "--package", "--queryformat", "%{ARCH}", package).decode()
    assert architecture == ARCHITECTURES[target][1]


UNITS = ("hanat-claim.service", "hanat-watch.service")
# Notes how it is called; every question that is asked of it is answered with yes.
NOTE = """#!/bin/sh
echo "${0##*/} $*" >>"${0%/*}/calls"
"""


def after_installing(target: str, package: str, folder: Path, upgrade: bool) -> list[str]:
    """What a package's script calls of systemd's, in words, after it was unpacked on a system that
    runs."""
    for name in ("systemctl", "deb-systemd-helper", "deb-systemd-invoke"):
        (folder / name).write_text(NOTE)
        (folder / name).chmod(0o755)
    if package == "deb":
        ask("dpkg-deb", "--control", made(target, ".deb"), folder / "control")
        script = (folder / "control" / "postinst").read_text()
        arguments = ["configure", "0.0.9" if upgrade else ""]
    else:
        ask_rpm = ("rpm", "--query", "--package", "--queryformat", "%{POSTIN}")
        script = ask(*ask_rpm, made(target, ".rpm")).decode()
        arguments = ["2" if upgrade else "1"]
    script = script.replace("/run/systemd/system", str(folder))
    done = subprocess.run(
        ["sh", "-c", script, "postinst", *arguments],
        env={"PATH": f"{folder}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return (folder / "calls").read_text().splitlines()


def acts_on(calls: list[str], verb: str) -> set[str]:
    """The units that something is done to."""
    words = [call.split() for call in calls]
    return {unit for call in words if verb in call for unit in UNITS if unit in call}


@pytest.mark.parametrize("package", ["deb", "rpm"])
def test_a_package_that_is_installed_enables_the_units_and_starts_nothing(
    target, package, tmp_path
):
    """Not into an image, and not on a machine that runs."""
    calls = after_installing(target, package, tmp_path, upgrade=False)
    assert acts_on(calls, "enable") == set(UNITS)
    assert not any("start" in call or "--now" in call for call in calls)


@pytest.mark.parametrize("package", ["deb", "rpm"])
def test_an_upgrade_runs_no_claim_and_has_a_watch_that_runs_be_the_new_one(
    target, package, tmp_path
):
    calls = after_installing(target, package, tmp_path, upgrade=True)
    acting = [call for call in calls if "start" in call or "stop" in call or "--now" in call]
    assert [call.partition(" ")[2] for call in acting] == ["try-restart hanat-watch.service"]
    assert any("daemon-reload" in call for call in calls[: calls.index(acting[0])])
