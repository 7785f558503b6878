"""The systemd unit and the manual page, looked at with what the system has to check them."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.nat import ROOT, binary_path
from tests.skipping import not_tested

UNITS = sorted((ROOT / "userdata").glob("*.service"))
MANUAL = ROOT / "userdata" / "hanat.8"
# What systemd calls OK ends at 5, and 2 is where it says that little is left to restrict.
MOST_EXPOSED = 2.0


@pytest.fixture(params=UNITS, ids=lambda unit: unit.name)
def root(request, tmp_path) -> Path:
    """A root directory that holds a unit, what it starts, and the targets that it names."""
    units = tmp_path / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    shutil.copy(request.param, units)
    for target in ("sysinit", "basic", "shutdown", "network-online", "multi-user"):
        (units / f"{target}.target").write_text(f"[Unit]\nDescription={target}\n")
    (tmp_path / "usr/bin").mkdir()
    shutil.copy(binary_path(), tmp_path / "usr/bin/hanat")
    return tmp_path


def analyze(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    if not shutil.which("systemd-analyze"):
        not_tested("systemd-analyze is not installed (systemd)")
    [unit] = (root / "usr/lib/systemd/system").glob("*.service")
    command = ["systemd-analyze", f"--root={root}", *arguments, unit.name]
    return subprocess.run(command, capture_output=True, text=True)


def test_systemd_finds_nothing_wrong(root):
    done = analyze(root, "verify", "--man=no", "--recursive-errors=no")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_unit_is_confined(root):
    done = analyze(root, "security", "--offline=true", "--json=short")
    assert done.returncode == 0, done.stderr
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert findings
    text = analyze(root, "security", "--offline=true").stdout
    found = re.search(r"Overall exposure level .*: ([0-9.]+)", text)
    assert found
    assert float(found[1]) <= MOST_EXPOSED, text


def test_one_capability_and_no_more():
    [claim] = [unit.read_text() for unit in UNITS if unit.name == "hanat-claim.service"]
    assert re.findall("^(?:Ambient|.*BoundingSet).*=(.*)$", claim, re.M) == ["CAP_NET_ADMIN"] * 2


# --- The manual -----------------------------------------------------------------------------------


def rendered() -> str:
    if not shutil.which("man"):
        not_tested("man is not installed (man-db)")
    done = subprocess.run(
        ["man", "--warnings", "--no-hyphenation", "--no-justification", "--local-file", MANUAL],
        capture_output=True,
        text=True,
        env={"MANWIDTH": "1000", "PATH": "/usr/bin:/bin", "LC_ALL": "C"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def options(text: str) -> dict[str, str]:
    """Each long option with what is said of it, which ends where the next one begins."""
    found = re.split(r"^ +(?:-[a-zA-Z], )?--([a-z-]+)(.*)$", text, flags=re.M)
    return {
        name: re.sub(r"\s+", " ", rest + said)
        for name, rest, said in zip(found[1::3], found[2::3], found[3::3], strict=True)
    }


def test_the_manual_has_the_options_variables_and_defaults_of_the_help():
    help_text = subprocess.run(
        [binary_path(), "claim", "--help"], capture_output=True, text=True, check=True
    ).stdout
    manual = options(rendered().partition("EXIT STATUS")[0])
    from_help = options(help_text.partition("Exit codes")[0])
    assert set(manual) - {"version"} == set(from_help)
    for name, said in from_help.items():
        if variable := re.search(r"\[env: ([A-Z_]+)=", said):
            assert manual[name].endswith(f" {variable[1]} "), name
        if value := re.search(r"<([A-Z_]+)>", said):
            assert f" {value[1]} " in manual[name], name
        if default := re.search(r"\[default: (.*?)\]", said):
            told = re.search(r"Default: (.*?)\. ", manual[name])
            assert told, name
            assert told[1].replace(",", "") == default[1], name


def test_the_manual_has_the_exit_codes_of_the_help():
    help_text = subprocess.run(
        [binary_path(), "--help"], capture_output=True, text=True, check=True
    ).stdout
    codes = r"^ *([0-9]) +(\S.*)$"
    from_manual = re.findall(codes, rendered().partition("EXIT STATUS")[2], re.M)
    assert from_manual == re.findall(codes, help_text.partition("Exit codes")[2], re.M)
