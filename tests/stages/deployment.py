"""What the scenes on deployment play in: a stack deployed into the emulator, whose NATs boot a real
system by their real user data, and fetch hanat from where a release was published."""

import hashlib
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.nat import ROOT
from tests.stages.stacks import ALONE
from tests.stages.two_zones import TwoZones
from tests.world.deploy import Stack, deploy
from tests.world.vpc.vpc import Vpc

PATH = "/hanat/hanat.tar.gz"
URL = f"https://downloads.example.com{PATH}"
UNIT = "hanat-claim.service"
WATCH = "hanat-watch.service"


def archive(folder: Path, binary: Path) -> bytes:
    """As `make dist` packs it; `folder` is for the file."""
    path = folder / "hanat.tar.gz"
    subprocess.run([ROOT / "userdata" / "pack.sh", binary, path], check=True)
    return path.read_bytes()


def where(content: bytes, url: str = URL) -> dict[str, str]:
    """The parameters that name an archive, which is of this machine's architecture whatever the
    emulator's instances have."""
    total = hashlib.sha256(content).hexdigest()
    return {
        "HanatUrlArm64": url,
        "HanatSha256Arm64": total,
        "HanatUrlX86": url,
        "HanatSha256X86": total,
    }


def deploy_nats(stage: TwoZones, parameters: Mapping[str, str]) -> Stack:
    """ha-nat.yaml in the stage's VPC, a group for each of its zones."""
    network = {"VpcId": stage.scene.vpc, "ClientCidr": "10.0.0.0/16"}
    for zone in stage.zones:
        letter = zone[-1]
        network[f"PublicSubnet{letter.upper()}"] = stage.scene.public_subnets[zone]
        stage.scene.groups[zone] = f"nat-{letter}"
    return deploy(stage.world, ALONE, {**network, **parameters})


def deploy_serving(stage: TwoZones, parameters: Mapping[str, str]) -> tuple[Stack, str]:
    """The same, and the first zone's NAT, which has booted well and serves."""
    stack = deploy_nats(stage, parameters)
    nat = stage.serving(stage.zones[0], timeout=60)
    booted_well(stage.vpc, nat)
    return stack, nat


def on(vpc: Vpc, instance: str, command: str) -> str:
    """What a shell command prints on an instance, which must not fail."""
    ran = vpc.instance(instance).run("sh", "-c", command)
    assert ran.returncode == 0, f"{command}: {ran.stdout}{ran.stderr}\n{vpc.log(instance)}"
    return ran.stdout.strip()


def shown(vpc: Vpc, instance: str, name: str) -> str:
    """A property of the watch, as systemd has it now."""
    return on(vpc, instance, f"systemctl show --property {name} --value {WATCH}")


def booted_well(vpc: Vpc, instance: str) -> None:
    """User data has ended without an error, and so has everything else on the system."""
    boot = vpc.wait_booted(instance)
    assert boot.code == 0, vpc.log(instance)
    assert on(vpc, instance, "systemctl is-system-running --wait") == "running"
