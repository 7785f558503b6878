"""Answers must leave by the interface that the clients' packets come in by."""

import subprocess

import pytest

from tests.claim.test_tables import main_table
from tests.nat import Nat, Ran, Running, binary_path
from tests.skipping import program
from tests.stages.kernel import nft, second_interface, shell
from tests.stages.packets import Flow, Surroundings, tcp
from tests.world import ec2
from tests.world.scene import ZONES

OWN, OTHER = ZONES
CLIENTS = "10.0.1.0/24"
MEND = (
    "ip route replace default via 10.0.0.1 dev ens5 table 1000 && "
    f"ip rule add iif ens5 to {CLIENTS} lookup 1000"
)


@pytest.fixture
def around(nat):
    surroundings = Surroundings(nat)
    yield surroundings
    surroundings.close()


def refused(nat: Nat, ran: Ran, table: str, *causes: str) -> None:
    """That one alone, for these causes, and nothing was done to it."""
    assert ran.code == 3, ran
    [row] = [row for row in ran.json["tables"] if row["result"] == "refused"]
    assert (row["route_table_id"], row["action"]) == (table, "refuse")
    for cause in (table, *causes):
        assert cause in ran.error, ran.error
    assert nat.route(table) is None


def elsewhere(ran: Ran) -> list[tuple[str, str | None]]:
    return [(to["block"], to["interface"]) for to in ran.json["kernel"]["answers_elsewhere"]]


def subnet(nat: Nat, block: str, table: str | None = None) -> str:
    """A new one, that a table is associated with if one is given."""
    answer = nat.world.ec2.create_subnet(VpcId=nat.scene.vpc, AvailabilityZone=OWN, CidrBlock=block)
    identity = answer["Subnet"]["SubnetId"]
    if table:
        nat.world.ec2.associate_route_table(RouteTableId=table, SubnetId=identity)
    return identity


# --- What is refused ------------------------------------------------------------------------------


def test_a_second_interface_in_the_clients_subnet(nat):
    [other] = nat.scene.add_tables(1)
    second_interface(nat.machine, "10.0.1.20/24")
    ran = nat.claim("--output", "json")
    clients = nat.scene.private_subnets[OWN]
    refused(
        nat,
        ran,
        nat.scene.private_tables[OWN],
        f"answers to {clients} ({CLIENTS}) would leave by ens6 and be lost: remove ens6, or let",
        f"({MEND})",
    )
    assert elsewhere(ran) == [(CLIENTS, "ens6")]
    assert nat.owns(other), "the others are claimed"
    assert nat.called["DescribeSubnets"] == 1


def test_a_dry_run_says_it_too(nat):
    """Before the kernel forwards, when it cannot be asked about others' packets."""
    second_interface(nat.machine, "10.0.1.20/24")
    ran = nat.claim("--dry-run", "--output", "json")
    refused(nat, ran, nat.scene.private_tables[OWN], "ens6", MEND)
    assert nat.machine.read_sysctl("net/ipv4/ip_forward") == "0"


def test_the_mend(nat, around):
    """What it says is done, and answers get there."""
    program("ip")
    [other] = nat.scene.add_tables(1)
    second_interface(nat.machine, "10.0.1.20/24")
    ran = nat.claim("--output", "json")
    refused(nat, ran, nat.scene.private_tables[OWN], MEND)
    assert nat.owns(other)
    # They are lost indeed.
    nft(
        around.router,
        """table ip lost { chain c { type filter hook prerouting priority 0;
            iifname "to-ens6" counter; }; }""",
    )
    shell(nat.machine, "ip neigh add 10.0.1.10 lladdr ff:ff:ff:ff:ff:ff dev ens6")
    with around.outside.socket(2) as there, around.client.socket(2) as here:
        there.bind((around.outside.address, 53))
        here.sendto(b"hello", (around.outside.address, 53))
        _, source = there.recvfrom(100)
        assert source[0] == nat.private_address
        there.sendto(b"lost", source)
        nat.world.wait_until(lambda: "packets 1 " in nft(around.router, "list table ip lost"))

    shell(nat.machine, MEND)
    again = nat.claim("--output", "json")
    assert again.code == 0, again
    assert elsewhere(again) == []
    assert nat.owns(nat.scene.private_tables[OWN])
    assert tcp(around.client, around.outside) == nat.private_address
    with Flow(around.client, around.outside) as flow:
        assert flow.seen_as() == nat.private_address


@pytest.mark.parametrize(
    ("route", "lost"),
    [
        (f"blackhole {CLIENTS}", [(CLIENTS, None)]),
        ("unreachable 10.0.1.128/25", [("10.0.1.128/25", None)]),
        ("10.0.0.0/15 dev wg0", [("10.0.1.0/24", "wg0"), ("10.0.2.0/23", "wg0")]),
        ("10.0.1.77 dev wg0", [("10.0.1.77/32", "wg0")]),
        (
            f"{CLIENTS} nexthop via 10.0.0.1 dev ens5 nexthop via 10.99.0.2 dev wg0",
            [(CLIENTS, "wg0")],
        ),
    ],
    ids=["blackhole", "a part of it", "more than the VPC", "one client", "two paths"],
)
def test_other_ways_to_lose_them(nat, route, lost):
    """A tunnel's routes, and such as drop; `more than the VPC` but for the own subnet."""
    second_interface(nat.machine, "10.99.0.1/24", "wg0")
    shell(nat.machine, f"ip route add {route}")
    ran = nat.claim("--output", "json")
    refused(nat, ran, nat.scene.private_tables[OWN], nat.scene.private_subnets[OWN])
    assert elsewhere(ran)[: len(lost)] == lost


def test_a_rule_for_some_of_them(nat):
    second_interface(nat.machine, "10.99.0.1/24", "wg0")
    shell(
        nat.machine,
        "ip route add default dev wg0 table 7 && ip rule add to 10.0.1.64/26 lookup 7",
    )
    ran = nat.claim("--output", "json")
    refused(nat, ran, nat.scene.private_tables[OWN], "would leave by wg0")
    assert elsewhere(ran) == [("10.0.1.64/26", "wg0")]


def test_dockers_network_in_a_vpc_that_has_it_too(nat):
    nat.world.ec2.associate_vpc_cidr_block(VpcId=nat.scene.vpc, CidrBlock="172.17.0.0/16")
    [table] = nat.scene.add_tables(1)
    clients = subnet(nat, "172.17.3.0/24", table)
    second_interface(nat.machine, "172.17.0.1/16", "docker0")
    ran = nat.claim("--output", "json")
    refused(nat, ran, table, f"answers to {clients} (172.17.3.0/24) would leave by docker0")
    assert nat.owns(nat.scene.private_tables[OWN])


def test_a_nat_that_the_image_brings(nat):
    second_interface(nat.machine, "10.0.1.20/24")
    nat.machine.write_sysctl("net/ipv4/ip_forward", 1)
    nft(
        nat.machine,
        "table ip mine { chain c { type nat hook postrouting priority 100; masquerade; }; }",
    )
    ran = nat.claim("--no-kernel", "--output", "json")
    refused(nat, ran, nat.scene.private_tables[OWN], "would leave by ens6")


# --- Whom it hits ---------------------------------------------------------------------------------


def test_an_interface_where_nobody_is_served(nat):
    """Such as one for logging in."""
    subnet(nat, "10.0.9.0/24")
    second_interface(nat.machine, "10.0.9.20/24")
    ran = nat.claim("--output", "json")
    assert ran.code == 0, ran
    assert elsewhere(ran) == [("10.0.9.0/24", "ens6")]
    assert nat.owns(nat.scene.private_tables[OWN])


def test_one_in_the_own_subnet(nat):
    """The kernel knows two ways there, and takes the first one."""
    second_interface(nat.machine, "10.0.0.20/24")
    ran = nat.claim("--output", "json")
    assert ran.code == 0, ran
    assert elsewhere(ran) == []
    assert "DescribeSubnets" not in nat.called


@pytest.mark.parametrize("associated", [False, True])
def test_the_main_table_serves_whom_no_other_does(nat, associated):
    main, public = main_table(nat), nat.scene.public_table
    subnet(nat, "10.0.9.0/24", public if associated else None)
    second_interface(nat.machine, "10.0.9.20/24")
    ran = nat.claim("--output", "json")
    if associated:
        assert ran.code == 0, ran
        assert nat.owns(main)
    else:
        refused(nat, ran, main, "10.0.9.0/24")


def test_where_it_cannot_be_told(nat):
    """Those that serve somebody are refused."""
    nat.world.deny("DescribeSubnets")
    [other] = nat.scene.add_tables(1)
    second_interface(nat.machine, "10.0.1.20/24")
    ran = nat.claim("--output", "json")
    refused(
        nat,
        ran,
        nat.scene.private_tables[OWN],
        "whether answers to its subnets would get there is not known",
        f"describing the subnets of {nat.scene.vpc}: UnauthorizedOperation",
    )
    assert nat.owns(other)


def test_a_subnet_that_cannot_be_understood(nat):
    """It is named; and its table is refused, as nobody knows."""
    [first, second] = nat.scene.add_tables(2)
    odd = subnet(nat, "10.0.8.0/24", first)
    subnet(nat, "10.0.9.0/24", second)
    ec2.backend().get_subnet(odd).cidr_block = "10.0.8.0/33"
    second_interface(nat.machine, "10.0.7.20/24")
    ran = nat.claim("--output", "json")
    refused(nat, ran, first, f"EC2 does not say which addresses {odd} has")
    [warning] = [line for line in ran.stderr.splitlines() if " WARN " in line and odd in line]
    assert f"leaving out subnet {odd}: " in warning
    assert nat.owns(second)
    assert nat.owns(nat.scene.private_tables[OWN])


def test_more_subnets_than_a_page_has(nat):
    for number in range(100):
        subnet(nat, f"10.0.{100 + number}.0/24")
    [last] = nat.scene.add_tables(1)
    subnet(nat, "10.0.250.0/24", last)
    second_interface(nat.machine, "10.0.250.20/24")
    ran = nat.claim("--output", "json")
    refused(nat, ran, last, "10.0.250.0/24")
    assert nat.called["DescribeSubnets"] == 2


# --- Later on -------------------------------------------------------------------------------------


def test_one_that_is_attached_later(nat, tmp_path):
    assert nat.claim().code == 0
    log = tmp_path / "log"
    command = [binary_path(), "watch", "--upkeep-interval", "1s"]
    with log.open("w") as output, nat.machine.entered():
        process = subprocess.Popen(command, env=nat.env, stderr=output, text=True)

    def looks(times: int) -> None:
        """Until it looked so often from now on."""
        before = nat.called["DescribeNetworkInterfaces"]
        nat.world.wait_until(lambda: nat.called["DescribeNetworkInterfaces"] >= before + times)

    with Running(process):
        looks(2)
        assert "answers to" not in log.read_text()
        second_interface(nat.machine, "10.0.1.20/24")
        looks(4)
        said = [line for line in log.read_text().splitlines() if "answers to" in line]
        assert len(said) == 1, said
        assert f" WARN answers to {CLIENTS} would leave by ens6 and be lost: " in said[0]
        assert MEND in said[0]
