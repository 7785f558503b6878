"""What a measured run starts from, how it is started, and whether it did its job."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from tests.nat import Nat, binary_path
from tests.skipping import PACKAGES, with_takes
from tests.world.record import Call
from tests.world.scene import HOOK, ZONES, two_zone_vpc
from tests.world.weather import Latency
from tests.world.world import World

from .launch import Measured, measure

SCRIPT = Path(__file__).with_name("claim.sh")
# Added to every EC2 and Auto Scaling call; IMDS, which is on the host, answers at once.
LATENCY = 0.05
_OWN, _OTHER = ZONES


class JobNotDone(Exception):
    """A run that did not do its job measures nothing."""


class Stage:
    """A fresh world: a NAT instance waits for its launching hook, and the default routes of
    `tables` tagged tables, one of its zone and the others of any, lead to a NAT of the other zone.
    """

    def __init__(self, world: World, tables: int, check_off: bool = False) -> None:
        world.reset()
        self.world = world
        self._scene = two_zone_vpc(world, nats_in_group=False)
        peer = Nat(self._scene, self._scene.launch_group(_OTHER))
        self.nat = Nat(self._scene, self._scene.launch_group(_OWN))
        own = self._scene.private_tables[_OWN]
        world.ec2.create_route(
            RouteTableId=own,
            DestinationCidrBlock="0.0.0.0/0",
            NetworkInterfaceId=peer.interface,
        )
        self._tables = [own, *self._scene.add_tables(tables - 1, default=peer.interface)]
        if check_off:
            world.ec2.modify_network_interface_attribute(
                NetworkInterfaceId=self.nat.interface, SourceDestCheck={"Value": False}
            )
        world.weather(None, Latency(LATENCY))

    @property
    def calls(self) -> list[Call]:
        """What the run asked EC2 and Auto Scaling for."""
        source = self.world.source(self.nat.instance)
        return [call for call in self.world.calls() if call.source == source]

    @property
    def throttled(self) -> int:
        return sum(is_throttled(call) for call in self.calls)

    def run(self, program: Callable[[Nat], Measured]) -> Measured:
        ran = program(self.nat)
        wrong = self._wrong(ran)
        if wrong:
            raise JobNotDone(f"{program.__name__}: {'; '.join(wrong)}; it said:\n{ran.output}")
        return ran

    def _wrong(self, ran: Measured) -> list[str]:
        nat, called = self.nat, [call for call in self.calls if not is_throttled(call)]
        replaced = sum(call.action == "ReplaceRoute" for call in called)
        lost = [table for table in self._tables if not nat.owns(table)]
        interface = nat.world.ec2.describe_network_interfaces(NetworkInterfaceIds=[nat.interface])
        checks = {
            f"exit code {ran.code}": ran.code == 0,
            f"{len(lost)} tables do not lead to the NAT": not lost,
            f"{replaced} routes were replaced": replaced == len(self._tables),
            "the other zone's table was touched": (
                nat.route(self._scene.private_tables[_OTHER]) is None
            ),
            "the source/destination check is on": not interface["NetworkInterfaces"][0][
                "SourceDestCheck"
            ],
            f"the hook was answered with {nat.answers}": nat.answers == ["CONTINUE"],
            f"the instance is {nat.state}": nat.state == "InService",
            "calls failed": all(call.status == 200 for call in called),
            "the world could not do its part": not self.world.faults,
        }
        return [what for what, right in checks.items() if not right]


def is_throttled(call: Call) -> bool:
    return call.error in ("RequestLimitExceeded", "Throttling")


def hanat(nat: Nat) -> Measured:
    with nat.machine.entered():
        return measure([str(binary_path()), "claim"], nat.env)


def script(nat: Nat) -> Measured:
    """The script, with the AWS CLI of the virtual environment that this Python is of."""
    bash = shutil.which("bash")
    if bash is None or shutil.which("curl") is None:
        raise JobNotDone(with_takes("the script needs bash and curl", PACKAGES))
    env = {
        **nat.world.env(nat.instance),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "LIFECYCLE_HOOK": HOOK,
        # No one's own profile, which the binary does not see either.
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    with nat.machine.entered():
        return measure([bash, str(SCRIPT)], env)
