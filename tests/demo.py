"""`make demo`: an emulated VPC, a NAT instance that its group launches, and `hanat claim` run as
that instance, with the route tables before and after."""

import subprocess
import sys

from tests.isolate import isolate_or_exit
from tests.nat import Nat, binary_path
from tests.world import World
from tests.world.scene import HOOK, ZONES, Scene, two_zone_vpc


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def show_tables(scene: Scene) -> None:
    tables = scene.world.ec2.describe_route_tables(
        Filters=[{"Name": "vpc-id", "Values": [scene.vpc]}]
    )["RouteTables"]
    subnets = scene.world.ec2.describe_subnets()["Subnets"]
    blocks = {subnet["SubnetId"]: subnet["CidrBlock"] for subnet in subnets}
    print(f"   {'ROUTE TABLE':<23}{'TAG':<18}{'SUBNETS':<26}DEFAULT ROUTE")
    for table in tables:
        if any(association["Main"] for association in table["Associations"]):
            continue
        tags = " ".join(f"{tag['Key']}={tag['Value']}" for tag in table["Tags"])
        served = ", ".join(blocks[a["SubnetId"]] for a in table["Associations"])
        route = scene.world.default_route(table["RouteTableId"])
        target = route.target if route else "none"
        if route and route.instance:
            target = f"{route.instance}/{route.target} ({route.state})"
        print(f"   {table['RouteTableId']:<23}{tags or '-':<18}{served or '-':<26}{target}")


def claim(nat: Nat) -> int:
    print("   $ hanat claim", flush=True)
    with nat.machine.entered():
        return subprocess.run([binary_path(), "claim"], env=nat.env, check=False).returncode


def main() -> int:
    isolate_or_exit()
    say("starting an emulated AWS on loopback")
    with World() as world:
        say("a VPC of two zones, each with a public and a private subnet; every private subnet's")
        print("   route table is tagged with its zone, and has no way out yet")
        scene = two_zone_vpc(world, nats_in_group=False)
        scene.add_tables(1, owner="any")
        show_tables(scene)

        zone = ZONES[0]
        say(f"an Auto Scaling group launches a NAT instance in {zone}")
        nat = Nat(scene, scene.launch_group(zone))
        print(f"   {nat.instance} is {nat.state}: the hook {HOOK} holds the launch until")
        print("   somebody says that the instance works")

        say(f"{nat.instance} boots and runs, with nothing configured by ID:")
        code = claim(nat)

        say("afterwards")
        show_tables(scene)
        print(f"   {nat.instance} is {nat.state}")

        say("run by hand again, it finds nothing to do:")
        again = claim(nat)

        claimed = nat.owns(scene.private_tables[zone]) and nat.state == "InService"
        if code or again or not claimed:
            say("the demo FAILED: see above")
            return 1
        say(f"done: the private subnet of {zone} goes out through its NAT")
    return 0


if __name__ == "__main__":
    sys.exit(main())
