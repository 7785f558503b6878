"""A world to play with: `python -m tests.world [--port N] [--latency-ms N]`, until Ctrl-C.

It is reached from the machine of its instance; the last line it prints is the way in there."""

import argparse
import signal
import sys

from tests.isolate import isolate_or_exit, way_in

from .scene import ZONES, two_zone_vpc
from .weather import Latency
from .world import World


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.world", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="of the AWS APIs (default: any free)")
    parser.add_argument("--latency-ms", type=float, default=0, help="added to every API call")
    options = parser.parse_args()
    isolate_or_exit()
    # Blocked before any thread starts, so that the wait below gets them and no handler runs.
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    with World(port=options.port) as world:
        scene = two_zone_vpc(world, nats_in_group=False)
        zone = ZONES[0]
        nat = scene.launch_group(zone, timeout=7200)
        if options.latency_ms:
            world.weather("*", Latency(options.latency_ms / 1000))
        exports = {
            **world.env(nat),
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "HANAT_PROBE_URL": world.probe_url,
        }
        for name, value in exports.items():
            print(f"export {name}={value}")
        print(
            f"# {scene.vpc}: tables {', '.join(scene.private_tables.values())} (NATAZ by zone); "
            f"{nat} in {scene.groups[zone]} is {world.lifecycle(nat)}"
        )
        print(f"# a shell on {nat}: {way_in(world.machine(nat).path)}", flush=True)
        signal.sigwait(ends)
    return 0


if __name__ == "__main__":
    sys.exit(main())
