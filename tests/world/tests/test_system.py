"""Instances that boot a system of their own: the real systemd, and the real cloud-init, which
reads the world's metadata."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import skipping
from tests.stages.two_zones import TwoZones
from tests.world import debian
from tests.world.debian import NotMade
from tests.world.scene import ZONES
from tests.world.vpc.cgroup import hierarchy
from tests.world.vpc.image import IMAGE

OWN = ZONES[0]
NOTHING = "#!/bin/sh\n"


@contextlib.contextmanager
def stage_of(world, image, **vpc) -> Iterator[TwoZones]:
    with TwoZones(world, zones=[OWN], image=image, **vpc) as stage:
        yield stage


@pytest.fixture
def stage(image, world):
    with stage_of(world, image) as stage:
        yield stage


def launch(stage, user_data: str) -> str:
    """An instance in no group, with a way out."""
    return stage.scene.launch_instance(stage.scene.public_subnets[OWN], UserData=user_data)


def run(stage, instance: str, command: str) -> str:
    """What a shell command prints on the instance, which must not fail."""
    ran = stage.vpc.instance(instance).run("sh", "-c", command)
    assert ran.returncode == 0, f"{ran.stdout}{ran.stderr}{stage.vpc.log(instance)}"
    return ran.stdout.strip()


def boots(stage, instance: str) -> int:
    """The exit code of its newest boot."""
    return stage.vpc.wait_booted(instance).code


def texts(stage, instance: str) -> list[str]:
    return [event.text for event in stage.vpc.events if event.subject == instance]


# --- User data ------------------------------------------------------------------------------------

CONFIG = """#cloud-config
write_files:
- path: /opt/written
  content: by cloud-init
runcmd:
- echo "runs as $(id -un) from $(cat /opt/written)"
- echo once >>/opt/runs
- curl --silent --show-error --fail https://www.example.com/ >/opt/fetched
"""
SCRIPT = """#!/bin/sh
echo "the script runs"
echo once >>/opt/runs
"""


def test_user_data_runs_once_on_a_real_system(stage):
    by_config, by_script = both = [launch(stage, CONFIG), launch(stage, SCRIPT)]
    for instance in both:
        assert boots(stage, instance) == 0, stage.vpc.log(instance)
        assert run(stage, instance, "systemctl is-system-running --wait") == "running"
    assert "runs as root from by cloud-init\n" in stage.vpc.log(by_config)
    assert "the script runs\n" in stage.vpc.log(by_script)
    assert texts(stage, by_script)[-2:] == [
        "has booted, runs its user data",
        "user data ended with exit code 0",
    ]
    assert run(stage, by_config, "cat /opt/fetched") == "ok"
    assert run(stage, by_config, "cat /proc/1/comm") == "systemd"
    assert run(stage, by_config, "systemctl is-active network-online.target") == "active"
    address = stage.vpc.picture.instances[by_config].address.ip
    assert run(stage, by_config, "hostname") == f"ip-{str(address).replace('.', '-')}"
    assert "the script runs" in run(stage, by_script, "journalctl --unit cloud-final")
    stores = [run(stage, instance, "cat /etc/machine-id") for instance in both]
    assert len(set(stores)) == 2
    run(stage, by_config, "touch /opt/kept /run/lost /tmp/lost")

    stage.world.ec2.reboot_instances(InstanceIds=both)
    for instance, machine_id in zip(both, stores, strict=True):
        assert boots(stage, instance) == 0, stage.vpc.log(instance)
        assert run(stage, instance, "cat /opt/runs") == "once"
        assert run(stage, instance, "cat /etc/machine-id") == machine_id
    assert stage.vpc.log(by_script).count("the script runs\n") == 1
    assert run(stage, by_config, "ls -d /opt/kept /run/lost /tmp/lost || :") == "/opt/kept"


def test_user_data_that_fails_and_layers(image, world, tmp_path):
    """The layers are laid over the image, and a unit in one of them starts."""
    top, below = tmp_path / "top", tmp_path / "below"
    unit = "[Service]\nType=oneshot\nExecStart=/usr/bin/baked\nRemainAfterExit=yes\n"
    unit = f"[Unit]\nWants=network-online.target\nAfter=network-online.target\n{unit}"
    for layer, what in ((top, "top"), (below, "below")):
        program = write(layer / "usr/bin/baked", f"#!/bin/sh\necho the {what} one\n")
        program.chmod(0o755)
        write(layer / "usr/lib/systemd/system/baked.service", unit)
    wanted = below / "etc/systemd/system/multi-user.target.wants/baked.service"
    wanted.parent.mkdir(parents=True)
    wanted.symlink_to("/usr/lib/systemd/system/baked.service")
    with stage_of(world, image, layers=[top, below]) as stage:
        bad = launch(stage, "#cloud-config\nruncmd:\n- echo it says why; exit 3\n")
        worse = launch(stage, "#!/bin/sh\necho lost\nkill -KILL $$\n")
        for instance, said in ((bad, "it says why"), (worse, "lost")):
            assert boots(stage, instance) != 0
            assert said in stage.vpc.log(instance)
            assert "the top one" in stage.vpc.log(instance)
        assert texts(stage, bad)[-1] == "user data ended with exit code 1"
        assert run(stage, bad, "systemctl is-active baked") == "active"
        assert "hanat" not in run(stage, bad, "ls /usr/bin /usr/local/bin")


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_clients_boot_no_system(stage):
    """They share files with everybody else."""
    run(stage, stage.client_id(OWN), f"test -e {stage.vpc.folder}")


# --- How it ends ----------------------------------------------------------------------------------

TICKS = """#!/bin/sh
echo its last words
systemd-run sh -c 'while :; do echo >>/opt/ticks; sleep 0.01; done'
"""


def test_what_stands_still_goes_on_and_what_ends_leaves_nothing(stage):
    killed, _ = both = [launch(stage, TICKS), launch(stage, TICKS)]
    for instance in both:
        assert boots(stage, instance) == 0, stage.vpc.log(instance)
    disk, ticks = stage.vpc.disk(killed), stage.vpc.disk(killed) / "upper/opt/ticks"
    sleeps = stage.vpc.instance(killed).start(["sleep", "1000"])
    for _ in range(2):
        stage.vpc.freeze(killed)
        stopped = ticks.stat().st_size
        time.sleep(0.2)
        assert ticks.stat().st_size == stopped
        stage.vpc.thaw(killed)
        stage.vpc.wait_until(lambda stopped=stopped: ticks.stat().st_size > stopped)
        run(stage, killed, "systemctl daemon-reload")
    assert left(stage, killed) == {"control group", "processes", "mounts", "disk"}
    stage.vpc.freeze(killed)
    stage.vpc.kill(killed)
    assert sleeps.wait(10) != 0
    assert left(stage, killed) == {"disk"}
    stopped = ticks.stat().st_size
    time.sleep(0.1)
    assert ticks.stat().st_size == stopped
    stage.world.ec2.terminate_instances(InstanceIds=both)
    for instance in both:
        stage.vpc.wait_until(lambda instance=instance: not left(stage, instance))
        assert "its last words\n" in stage.vpc.log(instance)
    assert not disk.exists()


def test_nothing_is_left_of_a_vpc_that_is_closed_while_it_boots(image, world):
    with stage_of(world, image) as stage:
        instance = launch(stage, NOTHING)
        stage.vpc.instance(instance)
    assert left(stage, instance) == set()
    assert not stage.vpc.folder.exists()


def left(stage, instance: str) -> set[str]:
    """What is there of it on this machine."""
    group, disk = hierarchy() / stage.vpc.folder.name / instance, stage.vpc.disk(instance)
    found = {
        "control group": group.exists(),
        "processes": any(file.read_text() for file in group.rglob("cgroup.procs")),
        "mounts": any(str(disk) in mounts for mounts in all_mounts()),
        "disk": disk.exists(),
    }
    return {what for what, there in found.items() if there}


def all_mounts() -> Iterator[str]:
    """Of every process."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield (process / "mountinfo").read_text()


# --- Where none can boot --------------------------------------------------------------------------


def test_why_there_is_no_image(image, monkeypatch, capsys):
    """In CI it is a failure."""
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(NotMade, match="takes root") as refused:
            IMAGE.path()
        assert refused.value.takes == (skipping.ROOT_RIGHTS,)
    monkeypatch.setattr(IMAGE, "_place", image.with_name("none"))
    with pytest.raises(NotMade, match="not been made") as missing:
        IMAGE.path()
    assert missing.value.takes[-1] == skipping.IMAGE
    monkeypatch.setattr(debian.shutil, "which", lambda _name: None)
    for ci, code in (("", 0), ("true", 1)):
        monkeypatch.setenv("CI", ci)
        assert IMAGE.main() == code
        [line] = capsys.readouterr().err.splitlines()
        assert line.endswith(f"mmdebstrap is not installed; it takes: {skipping.PACKAGES}")
