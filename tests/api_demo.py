"""What the demo shows where there are no network namespaces: what `hanat claim` would do, by the
API alone. The kernel that it would set up is this machine's own, so nothing is done."""

import subprocess

from rich.console import Console

from tests.nat import Nat, binary_path
from tests.world import World
from tests.world.scene import ZONES, two_zone_vpc


def main(console: Console) -> int:
    with World() as world:
        scene = two_zone_vpc(world, nats_in_group=False)
        scene.add_tables(1, owner="any")
        nat = Nat(scene, scene.launch_group(ZONES[0]))
        console.print(f"== a group launched {nat.instance}, which is {nat.state}")
        console.print("   $ hanat claim --dry-run")
        command = [binary_path(), "claim", "--dry-run"]
        ran = subprocess.run(command, env=nat.env, check=False, stdout=subprocess.PIPE, text=True)
        console.print(ran.stdout, end="", markup=False, soft_wrap=True)
        planned = ran.stdout.count("planned") == 2 and nat.changes == {}
    if not planned:
        console.print("== the demo FAILED: see above")
        return 1
    console.print("== it would claim both tables; of the kernel it could not tell (see above)")
    return 0
