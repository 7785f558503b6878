"""What clients lose of the internet, as probes measure it: between two hosts, with no NAT."""

import contextlib
import http.client
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Interface

import pytest

from tests.world.namespace import Namespace
from tests.world.vpc.internet_host import InternetHost
from tests.world.vpc.probe import Outage, Probe, Report

CLIENT, OTHER_CLIENT, SERVER = "198.51.100.10", "198.51.100.11", "198.51.100.1"
PATIENCE = 20.0


@pytest.fixture
def server(isolated) -> Iterator[Namespace]:
    """The host's namespace. Nothing listens yet."""
    with contextlib.closing(Namespace()) as server:
        yield server


@pytest.fixture
def client(server) -> Iterator[Namespace]:
    """The prober's namespace, joined with the server's."""
    with contextlib.closing(Namespace()) as client:
        client.add_veth("eth0", server, "eth0")
        client.add_address("eth0", IPv4Interface(f"{CLIENT}/24"))
        server.add_address("eth0", IPv4Interface(f"{SERVER}/24"))
        yield client


@pytest.fixture
def host(server, client) -> Iterator[InternetHost]:
    with contextlib.closing(InternetHost(server, SERVER)) as host:
        yield host


@pytest.fixture
def probe(client) -> Iterator[Probe]:
    with contextlib.closing(Probe("client-a", client, SERVER)) as probe:
        yield probe


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def start(probe: Probe, host: InternetHost) -> None:
    """Returns when it is connected, by its long-lived connection as well."""
    probe.start()
    until(lambda: host.seen()["tcp"])
    probe.wait_connected(PATIENCE)


def keep_macs(place: Namespace, other: Namespace, address: str) -> None:
    """Without ARP: what waits for an answer of it is sent late instead of lost."""
    with other.netlink() as netlink:
        [link] = netlink.link("get", ifname="eth0")
    with place.netlink() as netlink:
        index = netlink.link_lookup(ifname="eth0")[0]
        netlink.neigh(
            "replace", dst=address, lladdr=link.get("address"), ifindex=index, state="permanent"
        )


# --- The prober and the host ----------------------------------------------------------------------


def test_a_quiet_line_loses_nothing(host, probe):
    start(probe, host)
    time.sleep(1)
    assert probe.status.address == CLIENT
    report = probe.stop()
    assert (report.failed, report.lost, report.broken, report.outages) == (0, 0, 0, ())
    assert report.outage == 0.0
    assert report.client == "client-a"
    assert report.addresses == (CLIENT,)
    assert report.seconds >= 1
    assert 20 < report.exchanges <= report.seconds * 50 + 1
    assert 40 < report.datagrams <= report.seconds * 100 + 1
    assert report.connections == 1
    assert host.seen() == {
        "http": {CLIENT: report.exchanges},
        "tcp": {CLIENT: 1},
        "udp": {CLIENT: report.datagrams},
    }


def test_a_line_that_is_down_for_a_while(server, client, host, probe):
    keep_macs(client, server, SERVER)
    start(probe, host)
    down = time.monotonic()
    server.set_link("eth0", state="down")
    time.sleep(0.5)
    up = time.monotonic()
    server.set_link("eth0", state="up")
    # So long that TCP has sent what was lost again, which is too late to count.
    time.sleep(1.2)
    probe.wait_connected(PATIENCE)
    report = probe.stop()
    assert report.failed > 5
    assert report.lost > 10
    assert 0.4 < report.outage < 3
    assert {outage.kind for outage in report.outages} == {"exchange", "datagram"}
    for outage in report.outages:
        # What was sent just before may have been lost, too.
        assert down - 0.5 < outage.start < up < outage.end
    # TCP sends again what it lost.
    assert (report.connections, report.broken) == (1, 0)


def test_a_server_that_goes_and_comes_back(server, host, probe):
    start(probe, host)
    host.close()
    time.sleep(0.3)
    with contextlib.closing(InternetHost(server, SERVER)) as again:
        until(lambda: again.seen()["tcp"])
        probe.wait_connected(PATIENCE)
        report = probe.stop()
    assert report.failed > 0
    assert report.lost > 0
    assert report.outage > 0.2
    assert (report.connections, report.broken) == (2, 1)


def test_a_server_that_comes_late_and_one_that_is_gone_at_the_end(server, client, probe):
    started = time.monotonic()
    probe.start()
    until(lambda: probe.status)
    assert (probe.status.answered, probe.status.address) == (None, None)
    with contextlib.closing(InternetHost(server, SERVER)) as host:
        until(lambda: host.seen()["http"])
        probe.wait_connected(PATIENCE)
        connected = time.monotonic()
    time.sleep(0.3)
    stopped = time.monotonic()
    report = probe.stop()
    for kind in ("exchange", "datagram"):
        first, *_, last = [outage for outage in report.outages if outage.kind == kind]
        assert started < first.start < first.end < connected
        # What was under way when the host went was lost, too.
        assert connected - 0.5 < last.start
        assert last.seconds > 0.2
        assert stopped < last.end < stopped + PATIENCE


def test_a_connection_that_has_stalled_at_the_end_is_broken(server, client, host):
    keep_macs(client, server, SERVER)
    with contextlib.closing(Probe("client-a", client, SERVER, patience=0.3)) as probe:
        start(probe, host)
        server.set_link("eth0", state="down")
        time.sleep(0.1)
        report = probe.stop()
    assert (report.connections, report.broken) == (1, 1)


def test_a_prober_that_is_kept_from_running_loses_nothing(host, probe):
    """Not even answers that wait for it meanwhile."""
    start(probe, host)
    host.process.send_signal(signal.SIGSTOP)
    time.sleep(0.1)
    probe.process.send_signal(signal.SIGSTOP)
    host.process.send_signal(signal.SIGCONT)
    time.sleep(1.5)
    probe.process.send_signal(signal.SIGCONT)
    probe.wait_connected(PATIENCE)
    report = probe.stop()
    assert (report.failed, report.lost, report.broken, report.outages) == (0, 0, 0, ())
    assert report.seconds > 1.6
    assert report.datagrams < (report.seconds - 1.4) * 100, "nothing was made up for"


def test_a_client_that_is_seen_under_another_address(client, host, probe):
    start(probe, host)
    client.add_address("eth0", IPv4Interface(f"{OTHER_CLIENT}/24"))
    with client.netlink() as netlink:
        index = netlink.link_lookup(ifname="eth0")[0]
        netlink.route("add", dst=f"{SERVER}/32", oif=index, prefsrc=OTHER_CLIENT)
    until(lambda: probe.status.address == OTHER_CLIENT)
    assert probe.stop().addresses == (CLIENT, OTHER_CLIENT)
    assert set(host.seen()["udp"]) == {CLIENT, OTHER_CLIENT}


def test_the_host_as_others_see_it(client, host):
    with client.entered():
        http_client = http.client.HTTPConnection(SERVER, timeout=PATIENCE)
        http_client.request("GET", "/anything")
        tcp = socket.create_connection((SERVER, 7), timeout=PATIENCE)
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with contextlib.closing(http_client), http_client.getresponse() as response:
        assert (response.status, response.read()) == (200, f"{CLIENT}\n".encode())
    with tcp, tcp.makefile("rb") as answer:
        # More than buffers hold.
        data = bytes(range(256)) * 100_000
        threading.Thread(target=tcp.sendall, args=(data,), daemon=True).start()
        assert answer.read(len(data)) == data
        tcp.shutdown(socket.SHUT_WR)
        assert answer.read() == b""
    with udp:
        udp.settimeout(PATIENCE)
        udp.sendto(b"hello", (SERVER, 7))
        assert udp.recv(100) == f"hello {CLIENT}".encode()
    assert host.seen() == {"http": {CLIENT: 1}, "tcp": {CLIENT: 1}, "udp": {CLIENT: 1}}


@contextlib.contextmanager
def listening(server: Namespace, port: int, serve: Callable[[socket.socket], object]):
    """Serves one connection after the other, and closes each. Nothing else listens."""

    def accept() -> None:
        # It ends when the listener is closed.
        with contextlib.suppress(OSError):
            while True:
                with listener.accept()[0] as conn:
                    serve(conn)

    with server.entered():
        listener = socket.create_server((SERVER, port))
    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(PATIENCE)


def reset(conn: socket.socket) -> None:
    """The next `close` sends a RST."""
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def answer_wrongly(conn: socket.socket) -> None:
    conn.sendall(b"made up")
    while conn.recv(9):
        pass


@pytest.mark.parametrize("end", [reset, socket.socket.close, answer_wrongly])
def test_a_connection_that_breaks_is_made_again(server, client, probe, end):
    echoes: list[int] = []

    def echo(conn: socket.socket) -> None:
        echoes.append(0)
        while message := conn.recv(9):
            conn.sendall(message)
            echoes[-1] += 1
            if len(echoes) == 1:
                end(conn)
                return

    with listening(server, 7, echo):
        probe.start()
        until(lambda: len(echoes) == 2 and echoes[1] > 2)
        report = probe.stop()
    assert (report.connections, report.broken) == (2, 1)
    # Both were refused all the time, and the prober has borne it.
    assert report.failed == report.exchanges > 0
    assert report.lost == report.datagrams > 0
    assert report.addresses == ()


@pytest.mark.parametrize("answer", ["503 Sick\r\n\r\nsick\n", "200 OK\r\n\r\n198.51", "200 OK\r\n"])
def test_an_answer_that_is_not_whole_or_not_good_is_none(server, client, probe, answer):
    asked = []

    def serve(conn: socket.socket) -> None:
        asked.append(conn.recv(1000))
        conn.sendall(f"HTTP/1.1 {answer}".encode())

    with listening(server, 80, serve):
        probe.start()
        until(lambda: len(asked) > 5)
        report = probe.stop()
    assert report.cut == report.exchanges > 5


def test_an_answer_that_comes_late_is_none(server, client):
    with server.entered():
        late = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    late.settimeout(PATIENCE)
    with late, Probe("client-a", client, SERVER, patience=0.1) as probe:
        late.bind((SERVER, 7))
        first, source = late.recvfrom(100)
        time.sleep(0.5)
        late.sendto(first + b" 192.0.2.1", source)
        # Once one is in time, those that are not have been read.
        while probe.status.address is None:
            later, source = late.recvfrom(100)
            late.sendto(later + b" 192.0.2.2", source)
        report = probe.stop()
    assert report.addresses == ("192.0.2.2",)
    assert report.lost > 10


# --- Their handles --------------------------------------------------------------------------------


def test_the_programs_end_with_their_parent(host, probe):
    probe.start()
    for process in (host.process, probe.process):
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(PATIENCE) == 0


def test_who_is_never_answered_is_told_so(server, client, host, probe):
    probe.start().wait_connected(PATIENCE)
    host.close()
    until(lambda: probe.status.at > probe.status.answered + 0.5)
    with pytest.raises(TimeoutError, match=f"client-a: .* {SERVER} .* 0.1 s; .* as {CLIENT}, 0"):
        probe.wait_connected(timeout=0.1)
    probe.close()
    with pytest.raises(RuntimeError, match="client-a: the prober ended"):
        probe.wait_connected(PATIENCE)
    with pytest.raises(RuntimeError, match="client-a: the prober made no report"):
        probe.stop()


def test_a_host_that_cannot_listen(server, client, host, capfd):
    with pytest.raises(RuntimeError, match="ended with code 1"):
        InternetHost(server, SERVER)
    assert "Address already in use" in capfd.readouterr().err


def test_a_report_says_it_in_a_line():
    outages = (Outage("exchange", 10.0, 11.234), Outage("datagram", 10.5, 10.6))
    one = Report(
        "client-a", 10.0, 0.02, 500, 4, 3, 1000, 12, 2, 1, ("54.0.0.1", "54.0.0.2"), outages
    )
    other = Report("client-b", 9.0, 0.05, 450, 0, 1, 900, 0, 1, 0, ("54.0.0.2", "54.0.0.3"), ())
    nobody = Report("client-c", 0.0, 0.0, 0, 0, 0, 0, 0, 0, 0, (), ())
    assert str(one) == (
        "client-a: longest outage 1.23 s, 4 of 500 exchanges failed, 3 cut short, "
        "12 of 1000 datagrams lost, 1 connection broken, seen as 54.0.0.1, 54.0.0.2"
    )
    assert str(Report.of_all([one, other])) == (
        "all: longest outage 1.23 s, 4 of 950 exchanges failed, 4 cut short, "
        "12 of 1900 datagrams lost, 1 connection broken, seen as 54.0.0.1, 54.0.0.2, 54.0.0.3"
    )
    assert Report.of_all([one, other]).seconds == 10.0
    assert Report.of_all([one, other]).pause == 0.05
    assert str(nobody).endswith("0 connections broken, never answered")
