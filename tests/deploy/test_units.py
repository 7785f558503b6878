"""The systemd units and the manual page, looked at with what the system has to check them."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.nat import ROOT, binary_path
from tests.skipping import program

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
    [unit] = (root / "usr/lib/systemd/system").glob("*.service")
    command = [program("systemd-analyze"), f"--root={root}", *arguments, unit.name]
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


def settings(unit: str) -> dict[str, list[str]]:
    """What a unit's file says, by section and name, each value in its order."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in (ROOT / "userdata" / unit).read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(f"{section}.{name}", []).append(value)
    return found


CLAIM, WATCH = settings("hanat-claim.service"), settings("hanat-watch.service")


def test_capabilities_and_no_more():
    """The watch pings, which takes a raw socket."""
    for unit, capabilities in ((CLAIM, "CAP_NET_ADMIN"), (WATCH, "CAP_NET_ADMIN CAP_NET_RAW")):
        assert unit["Service.AmbientCapabilities"] == [capabilities]
        assert unit["Service.CapabilityBoundingSet"] == [capabilities]


def test_both_are_confined_alike():
    """But for what the watch needs for its pings, and for talking to systemd."""
    more = {
        "Service.AmbientCapabilities": "CAP_NET_RAW",
        "Service.CapabilityBoundingSet": "CAP_NET_RAW",
        "Service.RestrictAddressFamilies": "AF_UNIX",
    }
    # How each is run.
    own = (
        *("Type", "NotifyAccess", "ExecStart", "RemainAfterExit", "TimeoutStartSec"),
        *("WatchdogSec", "Restart", "RestartSec", "RestartPreventExitStatus"),
    )

    def sandbox(unit: dict[str, list[str]]) -> dict[str, list[str]]:
        ours = {name: said for name, said in unit.items() if name.startswith("Service.")}
        return {name: said for name, said in ours.items() if name[8:] not in own}

    expected = {
        name: [f"{value} {more[name]}" if name in more else value for value in values]
        for name, values in sandbox(CLAIM).items()
    }
    assert sandbox(WATCH) == expected
    assert len(expected) > 20


def test_the_claim_that_failed_is_tried_again_and_what_is_refused_is_not():
    assert CLAIM["Service.Restart"] == ["on-failure"]
    [never] = CLAIM["Service.RestartPreventExitStatus"]
    help_text = subprocess.run(
        [binary_path(), "claim", "--help"], capture_output=True, text=True, check=True
    ).stdout
    codes = dict(re.findall(r"^ +([0-9])  (.*)$", help_text.partition("Exit codes")[2], re.M))
    same = {code for code, said in codes.items() if "usage" in said or "refused" in said}
    assert set(never.split()) == same == {"2", "3"}
    assert set(codes) - same == {"0", "1", "4"}


def test_the_watch_tells_systemd_how_it_is_and_comes_back():
    assert WATCH["Service.Type"] == ["notify"]
    assert WATCH["Service.NotifyAccess"] == ["main"]
    assert WATCH["Service.WatchdogSec"] == ["30s"]
    assert (WATCH["Service.Restart"], WATCH["Service.RestartSec"]) == (["always"], ["1s"])
    assert WATCH["Service.RestartPreventExitStatus"] == ["2"], "wrong usage alone"
    assert WATCH["Unit.StartLimitIntervalSec"] == ["0"], "and never gives up"
    assert WATCH["Service.TimeoutStartSec"] == ["infinity"]


def test_the_watch_comes_after_the_claim_and_does_not_depend_on_it():
    [after] = WATCH["Unit.After"]
    assert "hanat-claim.service" in after.split()
    dependencies = ("Requires", "Requisite", "BindsTo", "PartOf", "Wants", "Upholds", "Conflicts")
    for unit in (CLAIM, WATCH):
        said = [value for name in dependencies for value in unit.get(f"Unit.{name}", [])]
        assert said == ["network-online.target"]


# --- The manual -----------------------------------------------------------------------------------


def rendered() -> str:
    done = subprocess.run(
        [
            program("man"),
            "--warnings",
            "--no-hyphenation",
            "--no-justification",
            "--local-file",
            MANUAL,
        ],
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


def of_command(text: str, command: str) -> str:
    """The parts of the manual's options whose headings name the command, or all of them."""
    found = re.split(r"^ {3}(\S.*)$", text, flags=re.M)
    parts = zip(found[1::2], found[2::2], strict=True)
    return "".join(said for head, said in parts if {"All", command} & set(head.split()))


@pytest.mark.parametrize("command", ["claim", "drain", "watch"])
def test_the_manual_has_the_options_variables_and_defaults_of_the_help(command):
    help_text = subprocess.run(
        [binary_path(), command, "--help"], capture_output=True, text=True, check=True
    ).stdout
    text = rendered().partition("\nOPTIONS")[2].partition("\nEXIT STATUS")[0]
    manual = options(of_command(text, command))
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


def test_the_manual_has_every_command():
    help_text = subprocess.run(
        [binary_path(), "--help"], capture_output=True, text=True, check=True
    ).stdout
    listed = help_text.partition("Commands:")[2].partition("Options:")[0]
    commands = set(re.findall(r"^  ([a-z]+)  ", listed, re.M)) - {"help"}
    text = rendered()
    synopsis = text.partition("SYNOPSIS")[2].partition("DESCRIPTION")[0]
    assert set(re.findall(r"hanat ([a-z]+) ", synopsis)) == commands
    description = text.partition("DESCRIPTION")[2].partition("\nOPTIONS")[0]
    assert set(re.findall(r"^   hanat ([a-z]+)$", description, re.M)) == commands


def test_the_manual_has_the_exit_codes_of_the_help():
    help_text = subprocess.run(
        [binary_path(), "--help"], capture_output=True, text=True, check=True
    ).stdout
    codes = r"^ *([0-9]) +(\S.*)$"
    from_manual = re.findall(codes, rendered().partition("EXIT STATUS")[2], re.M)
    assert from_manual == re.findall(codes, help_text.partition("Exit codes")[2], re.M)
