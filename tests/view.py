"""Shows people what goes on in a VPC of two zones: live on a terminal, line by line elsewhere."""

import collections
import contextlib
import re
import threading
import time
from collections.abc import Iterator, Mapping

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tests.stages.two_zones import TwoZones
from tests.world.vpc.instance import Instance
from tests.world.vpc.probe import Probe
from tests.world.vpc.vpc import Event

# A client without an answer for so long is shown as cut off. Probes send every 10 ms.
_SILENCE = 0.25
_INTERVAL = 0.125
_HISTORY, _EVENTS = 40, 10
_ID = re.compile(r"\b(?:i|subnet)-[0-9a-f]{17}\b")


class View:
    """What there is to see now."""

    def __init__(self, stage: TwoZones) -> None:
        self.stage = stage
        self.started = time.monotonic()
        self.probes: Mapping[str, Probe] = {}
        self._names: dict[str, str] = {}
        self._history: dict[str, collections.deque[bool]] = {}
        self._sampled = 0.0
        self._looks = 0
        self._looked = threading.Condition()

    def look_over(self) -> None:
        """Whoever shows it has just looked at all of it."""
        with self._looked:
            self._looks += 1
            self._looked.notify_all()

    def wait_shown(self) -> None:
        """Until what is now is shown. A look that is under way may have begun before."""
        with self._looked:
            wanted = self._looks + 2
            self._looked.wait_for(lambda: self._looks >= wanted, timeout=30)

    # --- Names ----------------------------------------------------------------------------------

    def name(self, subject: str) -> str:
        """What people call an instance or a subnet here: nat-a, then nat-a2, …"""
        self._learn()
        return self._names.get(subject, subject)

    def find(self, name: str) -> str:
        """The instance that has this name."""
        instances = self.instances()
        if name not in instances:
            raise LookupError(f"there is no {name}; there are: {', '.join(instances)}")
        return instances[name]

    def instances(self) -> dict[str, str]:
        """Those that are on, by name."""
        return {self.name(instance): instance for instance in self.stage.vpc.picture.instances}

    def readable(self, text: str) -> str:
        return _ID.sub(lambda found: self.name(found[0]), text)

    def _learn(self) -> None:
        scene = self.stage.scene
        for zone in self.stage.zones:
            letter = zone[-1]
            self._names.setdefault(self.stage.client_id(zone), f"client-{letter}")
            self._names.setdefault(scene.private_subnets[zone], f"private-{letter}")
            self._names.setdefault(scene.public_subnets[zone], f"public-{letter}")
        for instance, about in list(self.stage.vpc.picture.instances.items()):
            if instance not in self._names:
                base, taken = f"nat-{about.zone[-1]}", self._names.values()
                numbers = (f"{base}{number}" for number in range(2, 1000))
                names = (name for name in (base, *numbers) if name not in taken)
                self._names[instance] = next(names)

    # --- Pictures -------------------------------------------------------------------------------

    def __rich__(self) -> RenderableType:
        probes = self.probes
        self._sample(probes)
        parts = self.tables(), self.nats(), self.clients(probes, self._history)
        shown = Group(*parts, self.events(_EVENTS))
        self.look_over()
        return shown

    def tables(self) -> Table:
        table = plain_table("route table", "tag", "subnet", "default route")
        scene, picture = self.stage.scene, self.stage.vpc.picture
        for zone in self.stage.zones:
            subnet = scene.private_subnets[zone]
            target = picture.routes[subnet].get("0.0.0.0/0", "")
            # None is a route whose target is gone.
            where = "blackhole" if target is None else self.name(target) or "none"
            style = "green" if target else "red"
            name = self.name(subnet)
            table.add_row(scene.private_tables[zone], f"NATAZ={zone}", name, Text(where, style))
        return table

    def nats(self) -> Table:
        table = plain_table("NAT", "instance", "zone", "lifecycle", "", "public address")
        picture = self.stage.vpc.picture
        for instance, state in picture.lifecycles.items():
            about = picture.instances[instance]
            style = "green" if state == "InService" else "yellow"
            name, public = self.name(instance), about.public or "-"
            doing = self._doing(instance)
            table.add_row(name, instance, about.zone, Text(state, style), doing, public)
        if not picture.lifecycles:
            table.add_row("none yet")
        return table

    def clients(
        self,
        probes: Mapping[str, Probe],
        history: Mapping[str, collections.deque[bool]] | None = None,
    ) -> Table:
        """`probes` by zone; where one is missing its client is not looked at now."""
        table = plain_table("client", "gets through", "seen as")
        if history is not None:
            table.add_column(f"the last {_HISTORY * _INTERVAL:.0f} s", no_wrap=True)
        for zone in self.stage.zones:
            row = [f"client-{zone[-1]}", Text("not measured"), "-"]
            if probe := probes.get(zone):
                row[1] = Text("yes", "green") if gets_through(probe) else Text("no", "red")
                row[2] = (probe.status and probe.status.address) or "-"
            if history is not None:
                known = history.get(zone, ())
                row.append(Text.assemble(*(("█", "green") if up else ("░", "red") for up in known)))
            table.add_row(*row)
        return table

    def _sample(self, probes: Mapping[str, Probe]) -> None:
        """It may be drawn more often than that."""
        if time.monotonic() - self._sampled > 0.9 * _INTERVAL:
            self._sampled = time.monotonic()
            for zone, probe in probes.items():
                history = self._history.setdefault(zone, collections.deque(maxlen=_HISTORY))
                history.append(gets_through(probe))

    def _doing(self, instance: str) -> Text:
        match self.stage.vpc.running(instance):
            case None:
                return Text("is made", "yellow")
            case Instance(alive=False):
                return Text("is dead", "red")
            case Instance(boot=None):
                return Text("boots", "yellow")
            case Instance(boot=boot) if boot.code:
                return Text(f"user data failed: exit code {boot.code}", "red")
        return Text("runs", "green")

    def events(self, most: int) -> Group:
        return Group(*(self.line(event) for event in self.stage.vpc.events[-most:]))

    def line(self, event: Event, since: float | None = None) -> Text:
        when = f"{event.at - (self.started if since is None else since):7.2f} s  "
        return Text(f"{when}{self.name(event.subject):<12}{self.readable(event.text)}")


def gets_through(probe: Probe) -> bool:
    answered = probe.status.answered if probe.status else None
    return answered is not None and time.monotonic() - answered < _SILENCE


@contextlib.contextmanager
def shown(view: View, console: Console) -> Iterator[None]:
    """While it lasts, the view is on the screen; where there is none, what happens is printed."""
    if console.is_terminal:
        with Live(get_renderable=lambda: view, console=console, refresh_per_second=1 / _INTERVAL):
            yield
        return
    over = threading.Event()
    printer = threading.Thread(target=_print_lines, args=(view, console, over))
    printer.start()
    try:
        yield
    finally:
        over.set()
        printer.join()


def _print_lines(view: View, console: Console, over: threading.Event) -> None:
    printed, up = 0, dict.fromkeys(view.stage.zones, False)
    while True:
        last = over.wait(_INTERVAL)
        # First, because what they show may be a consequence of the events.
        now_up = {zone: gets_through(probe) for zone, probe in view.probes.items()}
        events = view.stage.vpc.events[printed:]
        for event in events:
            console.print(view.line(event))
        printed += len(events)
        for zone, gets in now_up.items():
            if gets != up[zone]:
                up[zone] = gets
                how = "gets through" if up[zone] else "does not get through any more"
                now = Event(time.monotonic(), view.stage.client_id(zone), how)
                console.print(view.line(now))
        view.look_over()
        if last:
            return


def plain_table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table
