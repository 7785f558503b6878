"""A VPC made of network namespaces, which follows what the emulator says about it.

```
clients ──┐                    ┌── internet gateway ── the Internet: a host, AWS's endpoints
          ├── the VPC's router ┤
NATs    ──┘                    └── metadata, DNS
```

Every instance that the emulator launches into the VPC is a namespace; it boots by its user data,
from an image if there is one, and goes when the emulator stops or terminates it; one that
hibernates stands still. NAT gateways are namespaces, too. A change of route tables, addresses or
checks is in force before the call that makes it is answered.
"""

import contextlib
import functools
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.world import ec2, metadata
from tests.world.autoscaling import LIFECYCLE
from tests.world.changes import CHANGES
from tests.world.names import Names
from tests.world.world import World

from .faults import Faults
from .gateway import InternetGateway
from .inits import Inits, own_folder
from .instance import Boot, Instance
from .internet import NAMES, Internet
from .nat_gateways import NatGateways
from .picture import Described, Picture, differences, take
from .router import DNS, UPLINK, Router, Routes, port_name
from .system import readable

# How often time is looked at, which ends hooks that nobody answers.
_TICK = 0.01


@dataclass(frozen=True)
class Event:
    """Something that happened. `at` is by time.monotonic(), `subject` the ID it happened to."""

    at: float
    subject: str
    text: str


class Vpc:
    def __init__(
        self,
        world: World,
        vpc_id: str,
        program: Path,
        boot_time: float = 0.0,
        propagation: float = 0.0,
        image: Path | None = None,
        layers: Sequence[Path] = (),
    ) -> None:
        """`program` is on every instance's PATH. An instance takes `boot_time` seconds until its
        user data runs, a changed route `propagation` seconds until packets go by it.

        With an image (image.py), instances that have user data boot a system from it, on which the
        program is not. `layers` are laid over the image, the first one at the top."""
        self.world = world
        self.boot_time = boot_time
        self.propagation = propagation
        self.events: list[Event] = []
        self._vpc_id = vpc_id
        self._program = program
        self._layers = (*layers, image) if image else ()
        self._picture = Picture()
        self._instances: dict[str, Instance] = {}
        self._asleep: set[str] = set()
        self._over = threading.Event()
        self._instances_changed = threading.Event()
        self._routes: queue.SimpleQueue[tuple[float, Mapping[str, Routes]] | None] = (
            queue.SimpleQueue()
        )
        # What ended one of the threads here.
        self._failure: BaseException | None = None

    # --- Life -----------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.folder = stack.enter_context(own_folder())
            self.router = Router()
            stack.callback(self.router.close)
            self.internet = Internet(self.world, self.folder)
            stack.callback(self.internet.close)
            certificate = self.internet.certificate
            self._inits = Inits(self.folder, self._program, certificate, self._layers)
            self.gateway = InternetGateway(self.router, UPLINK, self.internet)
            stack.callback(self.gateway.close)
            self._nat_gateways = NatGateways(self.router)
            stack.callback(self._nat_gateways.close)
            stack.callback(Names(NAMES).serve(self.router, str(DNS)).close)
            self.faults = Faults(self.router)
            stack.callback(self._close_instances)
            for work in (self._follow_instances, self._follow_time, self._follow_routes):
                thread = threading.Thread(target=self._guarded, args=(work,))
                thread.start()
                stack.callback(thread.join)
            stack.callback(self._stop)
            with self.world.lock:
                CHANGES.follow(self._look)
                stack.callback(self._leave)
                self._look()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        if self._failure:
            raise self._failure

    def _leave(self) -> None:
        with self.world.lock:
            CHANGES.leave(self._look)

    def _stop(self) -> None:
        self._over.set()
        self._instances_changed.set()
        self._routes.put(None)

    def _close_instances(self) -> None:
        for instance in list(self._instances.values()):
            self._close_instance(instance)

    # --- What tests hold ------------------------------------------------------------------------

    @property
    def picture(self) -> Picture:
        """What EC2 and Auto Scaling say now."""
        return self._picture

    def running(self, instance_id: str) -> Instance | None:
        """None for one that is not on (yet, or any more)."""
        return self._instances.get(instance_id)

    def instance(self, instance_id: str) -> Instance:
        """Waits until it is on, and not on its way down for a reboot."""
        self.wait_until(lambda: self._current(instance_id) is not None)
        instance = self._current(instance_id)
        assert instance
        return instance

    def wait_until(self, true: Callable[[], bool], timeout: float = 30.0) -> None:
        """TimeoutError when it does not come about."""
        self.world.wait_until(lambda: self._failure is not None or true(), timeout)
        if self._failure:
            raise self._failure

    def wait_booted(self, instance_id: str, timeout: float = 60.0) -> Boot:
        """Waits for the end of what it does at its (newest) boot."""
        try:
            self.wait_until(lambda: self._boot(instance_id) is not None, timeout)
        except TimeoutError as error:
            raise TimeoutError(
                f"{instance_id} has not booted within {timeout:g} s: {self.log(instance_id)}"
            ) from error
        boot = self._boot(instance_id)
        assert boot
        return boot

    def log(self, instance_id: str) -> str:
        """What its user data printed, all boots of it; of a system, what its console shows, where
        the whole journal is."""
        log = self._inits.log(instance_id)
        return readable(log.read_text(errors="replace")) if log.exists() else ""

    def disk(self, instance_id: str) -> Path:
        """The folder of what a system keeps when it reboots, in `upper`, until it is terminated."""
        return self._inits.disk(instance_id)

    def _current(self, instance_id: str) -> Instance | None:
        instance = self._instances.get(instance_id)
        about = self._picture.instances.get(instance_id)
        is_current = instance and about and instance.about.boot == about.boot
        return instance if is_current else None

    def _boot(self, instance_id: str) -> Boot | None:
        instance = self._current(instance_id)
        return instance.boot if instance else None

    # --- What goes wrong ------------------------------------------------------------------------

    def kill(self, instance_id: str, noticed_after: float | None = None) -> None:
        """The instance dies: no process and no packet any more. Its group notices so many seconds
        later, or never."""
        self.tell(instance_id, "dies without notice")
        self.instance(instance_id).kill()
        if noticed_after is not None:
            self.world.impair(instance_id, noticed_after)

    def freeze(self, instance_id: str) -> None:
        """It stands still, as a virtual machine does whose host is stuck; `thaw` lets it go on
        as if nothing had been."""
        self.tell(instance_id, "stands still")
        self.faults.cut(port_name(instance_id))
        self.instance(instance_id).freeze()

    def thaw(self, instance_id: str) -> None:
        self.tell(instance_id, "goes on")
        self.instance(instance_id).thaw()
        self.faults.mend(port_name(instance_id))

    def cut_uplink(self, instance_id: str) -> None:
        """No way between it and the Internet; the VPC still reaches it."""
        self.tell(instance_id, "loses its uplink")
        self.faults.cut_uplink(port_name(instance_id))

    def cut_from_peers(self, instance_id: str) -> None:
        """No way between it and the other instances that are in groups now."""
        self.tell(instance_id, "is cut off from its peers")
        peers = self._picture.lifecycles.keys() - {instance_id}
        self.faults.cut_from(port_name(instance_id), [port_name(peer) for peer in peers])

    def lose(self, instance_id: str, share: float) -> None:
        """That share of the packets that it receives and sends is lost."""
        self.tell(instance_id, f"loses {share:.0%} of its packets")
        self.faults.lose(port_name(instance_id), share)

    def mend(self, instance_id: str) -> None:
        """What was cut or lossy is as before."""
        self.tell(instance_id, "is reached again")
        self.faults.mend(port_name(instance_id))

    def tell(self, subject: str, text: str) -> None:
        """For those who read the events."""
        self.events.append(Event(time.monotonic(), subject, text))

    # --- Following ------------------------------------------------------------------------------

    def _look(self) -> None:
        """Called under the world's lock after whatever may have changed something."""
        before, now = self._picture, take(self._vpc_id)
        if now == before:
            return
        self._picture = now
        # Told before it is so, or a client could find out first.
        for subject, text in differences(before, now):
            self.tell(subject, text)
        for block in set(now.blocks) - set(before.blocks):
            self.router.own(block)
        self._nat_gateways.follow(now.nat_gateways)
        if (now.blocks, now.public) != (before.blocks, before.public):
            self.gateway.map(now.blocks, now.public)
        if now.checked != before.checked:
            self.router.check(now.checked)
        if now.routes != before.routes:
            if self.propagation:
                self._routes.put((time.monotonic() + self.propagation, now.ports))
            else:
                self.router.follow(now.ports)
        self._instances_changed.set()

    def _follow_routes(self) -> None:
        """What takes its time to propagate."""
        while entry := self._routes.get():
            due, routes = entry
            if self._over.wait(max(0, due - time.monotonic())):
                return
            self.router.follow(routes)

    def _follow_time(self) -> None:
        while not self._over.wait(_TICK):
            with self.world.lock:
                LIFECYCLE.tick()
                self._look()

    def _follow_instances(self) -> None:
        while True:
            self._instances_changed.wait()
            self._instances_changed.clear()
            if self._over.is_set():
                return
            wanted = self._picture.instances
            for instance in list(self._instances.values()):
                about = wanted.get(instance.about.instance)
                if about is None and self._hibernates(instance.about.instance):
                    self._put_to_sleep(instance)
                elif about is None or about.boot != instance.about.boot:
                    self._close_instance(instance)
                else:
                    self._wake(instance)
            for instance_id, about in wanted.items():
                if instance_id not in self._instances:
                    self._open_instance(about)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._failure = error

    # --- Instances ------------------------------------------------------------------------------

    def _open_instance(self, about: Described) -> None:
        with self.world.lock:
            user_data = metadata.user_data(about.instance)
        start = functools.partial(self._inits.start, about.instance, user_data)
        instance = Instance(about, self.router, self.world.imds(about.instance), start)
        self._instances[about.instance] = instance
        if user_data is not None:
            instance.boot_up(self.boot_time, functools.partial(self.tell, about.instance))

    def _hibernates(self, instance_id: str) -> bool:
        with self.world.lock:
            instance = ec2.backend().get_instance(instance_id)
            return instance.state == "stopped" and ec2.is_asleep(instance)

    def _put_to_sleep(self, instance: Instance) -> None:
        instance_id = instance.about.instance
        if instance_id not in self._asleep:
            self._asleep.add(instance_id)
            self.tell(instance_id, "hibernates")
            self.faults.cut(port_name(instance_id))
            instance.freeze()

    def _wake(self, instance: Instance) -> None:
        instance_id = instance.about.instance
        if instance_id in self._asleep:
            instance.thaw()
            self.faults.mend(port_name(instance_id))
            self._asleep.remove(instance_id)
            self.tell(instance_id, "goes on")

    def _close_instance(self, instance: Instance) -> None:
        instance_id = instance.about.instance
        self._asleep.discard(instance_id)
        del self._instances[instance_id]
        instance.close()
        with self.world.lock:
            keeps_disk = ec2.backend().get_instance(instance_id).state != "terminated"
        if not keeps_disk:
            self._inits.remove_disk(instance_id)
