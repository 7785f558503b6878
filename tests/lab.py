"""`make lab`: a VPC of two zones to play with, and commands to make things happen in it.

Options: --boot-time, --propagation and --api-latency, in seconds. Commands also come by a pipe."""

import argparse
import cmd
import os
import subprocess
import sys

from rich.console import Console

from tests.isolate import isolate_or_exit
from tests.stages.two_zones import LAUNCH_FIRST, TwoZones, wait_for_all
from tests.view import View
from tests.world import World
from tests.world.namespace import Namespace
from tests.world.vpc.init import ENDS_WITH_US

# Seconds that a group takes to notice that an instance is dead; on EC2 it is minutes.
DETECTION = "3"
# As what runs on an instance, what runs elsewhere leaves nothing behind.
_ELSEWHERE = [*ENDS_WITH_US, "unshare", "--pid", "--fork", "--kill-child", "--"]


class Lab(cmd.Cmd):
    prompt = "lab> "

    def __init__(self, stage: TwoZones, view: View, console: Console) -> None:
        super().__init__()
        self._stage, self._view, self._console = stage, view, console
        self._places: dict[str, Namespace] = {
            "router": stage.vpc.router,
            "gateway": stage.vpc.gateway,
            "internet": stage.vpc.internet,
        }
        self.failed = False
        # What is piped in is no conversation.
        self.use_rawinput = sys.stdin.isatty()
        self.prompt = self.prompt if self.use_rawinput else ""

    # --- Looking --------------------------------------------------------------------------------

    def do_status(self, _: str) -> None:
        """status: route tables, NATs, clients"""
        self._console.print(self._view.tables())
        self._console.print(self._view.nats())
        self._console.print(self._view.clients(self._view.probes))

    def do_events(self, _: str) -> None:
        """events: all that happened"""
        self._console.print(self._view.events(len(self._stage.vpc.events)))

    def do_log(self, name: str) -> None:
        """log NAME: what the instance's user data printed"""
        log = self._stage.vpc.log(self._view.find(name))
        self._console.print(log, markup=False, soft_wrap=True)

    def do_wait(self, _: str) -> None:
        """wait: until all clients get through"""
        wait_for_all(self._view.probes)

    # --- Making things happen -------------------------------------------------------------------

    def do_refresh(self, zone: str) -> None:
        """refresh a|b: the zone's group replaces its NAT, and launches before it terminates"""
        self._stage.refresh(self._zone(zone))

    def do_terminate(self, zone: str) -> None:
        """terminate a|b: the zone's group terminates its NAT, then launches another one"""
        self._stage.terminate(self._zone(zone))

    def do_kill(self, line: str) -> None:
        """kill NAME [SECONDS]: an instance dies; its group notices so many seconds later (or 3)"""
        name, seconds = _words(line, 1, DETECTION)
        self._stage.vpc.kill(self._view.find(name), noticed_after=float(seconds))

    def do_reboot(self, name: str) -> None:
        """reboot NAME: a NAT"""
        nats = self._stage.vpc.picture.lifecycles
        if (instance := self._view.find(name)) not in nats:
            # Its probe would stay behind in what it was.
            raise ValueError(f"{name} is no NAT")
        self._stage.world.ec2.reboot_instances(InstanceIds=[instance])

    def do_cut(self, line: str) -> None:
        """cut NAME [uplink|peers]: no way to the Internet any more (or to the other NATs)"""
        name, what = _words(line, 1, "uplink")
        cut = {
            "uplink": self._stage.vpc.cut_uplink,
            "peers": self._stage.vpc.cut_from_peers,
        }
        if what not in cut:
            raise ValueError(f"cut what? {' or '.join(cut)}")
        cut[what](self._view.find(name))

    def do_lose(self, line: str) -> None:
        """lose NAME PERCENT: so much of its packets"""
        name, percent = _words(line, 2)
        if not 0 <= float(percent) <= 100:
            raise ValueError(f"{percent} is no percentage")
        self._stage.vpc.lose(self._view.find(name), float(percent) / 100)

    def do_freeze(self, name: str) -> None:
        """freeze NAME: it stands still; thaw lets it go on"""
        self._stage.vpc.freeze(self._view.find(name))

    def do_thaw(self, name: str) -> None:
        """thaw NAME"""
        self._stage.vpc.thaw(self._view.find(name))

    def do_heal(self, name: str) -> None:
        """heal NAME: what was cut or lossy is as before"""
        self._stage.vpc.mend(self._view.find(name))

    # --- Being there ----------------------------------------------------------------------------

    def do_run(self, line: str) -> None:
        """run NAME COMMAND…: on an instance, or in the router, gateway or internet"""
        name, _, command = line.partition(" ")
        if code := self._within(name, ["sh", "-c", command]):
            raise RuntimeError(f"exit code {code}")

    def do_shell(self, name: str) -> None:
        """shell NAME: on an instance, or in the router, gateway or internet"""
        self._within(name, [os.environ.get("SHELL", "/bin/sh")])

    def _within(self, name: str, command: list[str]) -> int:
        shared = {key: os.environ[key] for key in ("HOME", "TERM") if key in os.environ}
        if place := self._places.get(name):
            with place.entered():
                return subprocess.call([*_ELSEWHERE, *command])
        instance = self._stage.vpc.instance(self._view.find(name))
        with instance.start(command, shared, stdin=None) as process:
            return process.wait()

    # --- The prompt itself ----------------------------------------------------------------------

    def do_quit(self, _: str) -> bool:
        """quit: take everything down"""
        return True

    do_EOF = do_quit

    def emptyline(self) -> None:
        """Nothing, not the last command again."""

    def default(self, line: str) -> None:
        raise ValueError(f"no such command: {line.split()[0]} (help lists them)")

    def onecmd(self, line: str) -> bool:
        try:
            return bool(super().onecmd(line))
        except KeyboardInterrupt:
            # It ends what is waited for, not the lab.
            self._console.print()
            return False
        except Exception as error:
            self._console.print(f"error: {error}", markup=False)
            self.failed = True
            return False

    def completedefault(self, text: str, *_: object) -> list[str]:
        return [name for name in [*self._view.instances(), *self._places] if name.startswith(text)]

    def _zone(self, letter: str) -> str:
        for zone in self._stage.zones:
            if letter in (zone, zone[-1]):
                return zone
        raise ValueError(f"which zone? {', '.join(zone[-1] for zone in self._stage.zones)}")


def _words(line: str, required: int, *defaults: str) -> list[str]:
    words = line.split()
    if not required <= len(words) <= required + len(defaults):
        raise ValueError("wrong number of words (help COMMAND tells)")
    return words + list(defaults[len(words) - required :])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    seconds = {"type": float, "metavar": "SECONDS"}
    parser.add_argument("--boot-time", **seconds, default=2.0, help="of an instance (2)")
    parser.add_argument("--propagation", **seconds, default=0.0, help="of a changed route (0)")
    parser.add_argument("--api-latency", **seconds, default=0.05, help="of an API call (0.05)")
    options = parser.parse_args()
    isolate_or_exit()
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    with World() as world, TwoZones(world, **vars(options)) as stage, stage.probes() as probes:
        view = View(stage)
        view.probes = probes
        console.print("A VPC of two zones; their NATs are on their way …")
        stage.launch(maintenance=LAUNCH_FIRST)
        lab = Lab(stage, view, console)
        lab.onecmd("status")
        console.print("help lists the commands, quit takes everything down.")
        try:
            lab.cmdloop()
        except KeyboardInterrupt:
            console.print()
    return int(lab.failed and not lab.use_rawinput)


if __name__ == "__main__":
    sys.exit(main())
