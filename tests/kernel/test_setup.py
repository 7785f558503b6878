"""`hanat claim` makes the kernel a NAT before it takes a route, or says why it cannot."""

from pathlib import Path

import pytest

from tests.nat import Nat, Ran
from tests.stages.kernel import (
    handles,
    iptables,
    nft,
    ruleset,
    with_files,
    with_read_only,
    without_net_admin,
)
from tests.stages.packets import SECOND_BLOCK
from tests.world.other_kernel import OtherKernel
from tests.world.scene import ZONES
from tests.world.weather import Body, Rule

OWN = ZONES[0]
EXPECTED = Path(__file__).with_name("expected")
SETTINGS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/ens5/forwarding": "1",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/ens5/send_redirects": "0",
    "net/ipv4/conf/ens5/accept_redirects": "0",
    "net/netfilter/nf_conntrack_tcp_be_liberal": "1",
    "net/netfilter/nf_conntrack_tcp_loose": "1",
    "net/netfilter/nf_conntrack_tcp_timeout_established": "7440",
    "net/netfilter/nf_conntrack_tcp_timeout_close_wait": "240",
    "net/netfilter/nf_conntrack_tcp_timeout_fin_wait": "240",
    "net/netfilter/nf_conntrack_tcp_timeout_last_ack": "240",
    "net/netfilter/nf_conntrack_udp_timeout": "120",
    "net/netfilter/nf_conntrack_udp_timeout_stream": "350",
    "net/netfilter/nf_conntrack_icmp_timeout": "60",
}
# The flags of times, and the settings below net/netfilter/nf_conntrack_.
TIMES = {
    "established": "tcp_timeout_established",
    "close-wait": "tcp_timeout_close_wait",
    "fin-wait": "tcp_timeout_fin_wait",
    "last-ack": "tcp_timeout_last_ack",
    "udp": "udp_timeout",
    "udp-stream": "udp_timeout_stream",
    "icmp": "icmp_timeout",
}


def settings(nat: Nat) -> dict[str, str]:
    return {path: nat.machine.read_sysctl(path) for path in SETTINGS}


def refused(nat: Nat, ran: Ran, *causes: str) -> None:
    """It failed before it took a route, for that cause, and the group knows."""
    assert ran.code == 1, ran
    for cause in causes:
        assert cause in ran.error, ran.error
    assert nat.route(nat.scene.private_tables[OWN]) is None
    assert nat.answers == ["ABANDON"]


# --- What it sets up --------------------------------------------------------------------------


def test_a_fresh_machine(nat):
    ran = nat.claim("--output", "json")
    assert ran.code == 0, ran
    assert settings(nat) == SETTINGS
    kernel = ran.json["kernel"]
    assert kernel["interface"] == "ens5"
    assert kernel["masquerading_elsewhere"] == []
    assert "nftables table ip hanat created" in kernel["changes"]
    assert "net.ipv4.ip_forward 0 → 1" in kernel["changes"]


@pytest.mark.parametrize(
    ("expected", "blocks", "flags"),
    [
        ("plain.nft", [], []),
        ("two-blocks.nft", [SECOND_BLOCK], []),
        ("sources.nft", [], ["--source", "192.168.7.9/24", "--source", "10.0.0.0/16"]),
        ("everything.nft", [], ["--source", "0.0.0.0/0"]),
    ],
)
def test_the_rules(nat, expected, blocks, flags):
    """They are what nft makes of a file that a person can read."""
    for block in blocks:
        nat.world.ec2.associate_vpc_cidr_block(VpcId=nat.scene.vpc, CidrBlock=block)
    assert nat.claim(*flags).code == 0
    ours = ruleset(nat.machine)
    nft(nat.machine, "flush ruleset")
    nft(nat.machine, (EXPECTED / expected).read_text())
    assert ours == ruleset(nat.machine)


def test_the_segment_size_follows_a_smaller_mtu(nat):
    nat.machine.set_link("ens5", mtu=1400)
    assert nat.claim().code == 0
    assert "maxseg size set 1360" in ruleset(nat.machine)


def test_a_second_run_changes_nothing(nat):
    assert nat.claim().code == 0
    before = ruleset(nat.machine), handles(nat.machine), settings(nat)
    again = nat.claim("--output", "json")
    assert again.code == 0, again
    assert again.json["kernel"]["changes"] == []
    assert (ruleset(nat.machine), handles(nat.machine), settings(nat)) == before


def test_a_dry_run_says_what_it_would_do_and_does_not(nat):
    before = ruleset(nat.machine), settings(nat)
    ran = nat.claim("--dry-run")
    assert ran.code == 0, ran
    assert "would make ens5 forward and masquerade:" in ran.stdout
    assert "  nftables table ip hanat created" in ran.stdout
    assert "  net.ipv4.ip_forward 0 → 1" in ran.stdout
    assert (ruleset(nat.machine), settings(nat)) == before
    assert nat.claim().code == 0
    assert "would" not in nat.claim("--dry-run").stdout


def rename_interface(nat: Nat) -> None:
    nat.machine.set_link("ens5", state="down")
    nat.machine.set_link("ens5", ifname="eth0")
    nat.machine.set_link("eth0", state="up")


def test_the_interface_may_have_any_name(nat):
    rename_interface(nat)
    assert nat.claim().code == 0
    assert 'oifname != "eth0"' in ruleset(nat.machine)
    assert nat.machine.read_sysctl("net/ipv4/conf/eth0/forwarding") == "1"


def test_a_renamed_interface_gets_its_rules(nat):
    assert nat.claim().code == 0
    rename_interface(nat)
    again = nat.claim()
    assert again.code == 0
    assert "nftables table ip hanat replaced" in again.stdout
    assert 'oifname != "eth0"' in ruleset(nat.machine)


def test_rules_that_somebody_flushed_come_back(nat):
    assert nat.claim().code == 0
    before = ruleset(nat.machine)
    for damage in ["flush ruleset", "flush table ip hanat", "flush chain ip hanat postrouting"]:
        nft(nat.machine, damage)
        assert nat.claim().code == 0
        assert ruleset(nat.machine) == before, damage


@pytest.mark.parametrize(
    "older",
    [
        "table ip hanat { }",
        "table ip hanat { flags dormant; }",
        "table ip hanat { chain postrouting { masquerade; }; set s { type ipv4_addr; }; }",
        "table ip hanat { chain postrouting { type nat hook postrouting priority 100; "
        "policy drop; oif lo masquerade; }; }",
        "table ip hanat { chain forward { type filter hook forward priority 0; policy drop; }; }",
    ],
)
def test_a_table_of_an_older_version_is_replaced(nat, older):
    nft(nat.machine, older)
    ran = nat.claim()
    assert ran.code == 0, ran
    assert "nftables table ip hanat replaced" in ran.stdout
    listed = ruleset(nat.machine)
    nft(nat.machine, "flush ruleset")
    nft(nat.machine, (EXPECTED / "plain.nft").read_text())
    assert listed == ruleset(nat.machine)


def test_other_peoples_rules_survive(nat):
    others = """
        table inet hanat { chain c { type filter hook input priority 0; tcp dport 22 accept; }; }
        table ip6 hanat { }
        table ip nat { chain POSTROUTING { type nat hook postrouting priority 100;
            oifname "ens5" counter masquerade; }; }
    """
    nft(nat.machine, others)
    before = ruleset(nat.machine)
    ran = nat.claim("--output", "json")
    assert ran.code == 0, ran
    assert ran.json["kernel"]["masquerading_elsewhere"] == ["chain POSTROUTING of table ip nat"]
    nft(nat.machine, "delete table ip hanat")
    assert ruleset(nat.machine) == before


# --- The connection table ---------------------------------------------------------------------


@pytest.fixture
def sizes(tmp_path) -> dict[str, Path]:
    """A machine of 512 MiB as it boots. These settings are the whole machine's and cannot be
    written in a network namespace, so files stand for them."""
    files = {
        "/proc/meminfo": "MemTotal:         473096 kB\nMemFree:          100000 kB\n",
        "/proc/sys/net/netfilter/nf_conntrack_max": "4096\n",
        "/proc/sys/net/netfilter/nf_conntrack_buckets": "4096\n",
    }
    paths = {}
    for place, text in files.items():
        paths[place] = tmp_path / Path(place).name
        paths[place].write_text(text)
    return paths


def size(sizes: dict[str, Path], name: str) -> int:
    return int(sizes[f"/proc/sys/net/netfilter/nf_conntrack_{name}"].read_text())


def test_the_connection_table_follows_the_memory(nat, sizes):
    ran = nat.claim(within=with_files(sizes))
    assert ran.code == 0, ran
    assert size(sizes, "max") == size(sizes, "buckets") == 114_688
    assert "net.netfilter.nf_conntrack_max 4096 → 114688" in ran.stdout


def test_its_size_by_flags(nat, sizes):
    flags = ["--conntrack-max", "9000", "--conntrack-buckets", "30000"]
    ran = nat.claim(*flags, within=with_files(sizes))
    assert ran.code == 0, ran
    assert (size(sizes, "max"), size(sizes, "buckets")) == (9000, 30_000)


def times(nat: Nat) -> list[str]:
    paths = [f"net/netfilter/nf_conntrack_{setting}" for setting in TIMES.values()]
    return [nat.machine.read_sysctl(path) for path in paths]


@pytest.mark.parametrize("how", ["flags", "variables"])
def test_its_times(nat, how):
    """Exactly as asked for, be it more or less than they are."""
    for seconds in (86_400, 11):
        asked = {name: f"{seconds + n}s" for n, name in enumerate(TIMES)}
        flags = [f"--conntrack-{name}={time}" for name, time in asked.items()]
        variables = {
            f"HANAT_CONNTRACK_{name.upper().replace('-', '_')}": time
            for name, time in asked.items()
        }
        ran = nat.claim(*flags) if how == "flags" else nat.claim(env=variables)
        assert ran.code == 0, ran
        assert times(nat) == [str(seconds + n) for n in range(len(TIMES))]


def test_more_patient_times_and_what_is_liberal_stay(nat):
    assert nat.claim().code == 0
    patient = {
        "net/netfilter/nf_conntrack_udp_timeout": 600,
        "net/netfilter/nf_conntrack_udp_timeout_stream": 351,
        "net/netfilter/nf_conntrack_icmp_timeout": 61,
        "net/netfilter/nf_conntrack_tcp_timeout_close_wait": 7200,
    }
    for path, value in patient.items():
        nat.machine.write_sysctl(path, value)
    assert nat.claim("--output", "json").json["kernel"]["changes"] == []


def test_connections_are_taken_up_although_somebody_turned_that_off(nat):
    assert nat.claim().code == 0
    nat.machine.write_sysctl("net/netfilter/nf_conntrack_tcp_loose", 0)
    ran = nat.claim()
    assert "net.netfilter.nf_conntrack_tcp_loose 0 → 1" in ran.stdout


def test_a_size_that_cannot_be_set_here_is_not_asked_for_in_vain(nat):
    """In a namespace it is the whole machine's, and read-only."""
    ran = nat.claim("--conntrack-max", "1234567")
    refused(nat, ran, "net.netfilter.nf_conntrack_max cannot be set to 1234567 here")


@pytest.mark.parametrize(
    "flags",
    [
        ["--conntrack-max", "0"],
        ["--conntrack-max", "2147483648"],
        ["--conntrack-buckets", "many"],
        ["--conntrack-established", "0s"],
        ["--conntrack-established", "25days"],
        ["--conntrack-established", "1500ms"],
        ["--conntrack-udp", "0s"],
        ["--conntrack-udp-stream", "350"],
        ["--conntrack-icmp", "1ms"],
        ["--conntrack-close-wait", "25days"],
        ["--conntrack-fin-wait", "1.5s"],
        ["--conntrack-last-ack", "soon"],
        ["--source", "10.0.0.0/33"],
        ["--source", "2001:db8::/32"],
    ],
)
def test_nonsense_in_flags(nat, flags):
    ran = nat.claim(*flags)
    assert ran.code == 2, ran
    assert flags[0] in ran.stderr


# --- Bad weather ------------------------------------------------------------------------------


def test_without_the_right_to(nat):
    ran = nat.claim(within=without_net_admin())
    refused(nat, ran, "nftables", "Operation not permitted", "CAP_NET_ADMIN")


def test_a_dry_run_without_the_right_to_shows_the_tables_all_the_same(nat):
    ran = nat.claim("--dry-run", "--output", "json", within=without_net_admin())
    assert ran.code == 1, ran
    assert "CAP_NET_ADMIN" in ran.error
    assert [table["result"] for table in ran.json["tables"]] == ["planned"]
    assert ran.json["kernel"] is None
    assert nat.changes == {}


def test_a_dry_run_on_the_way_into_a_warm_pool_fails_without_the_right_to(nat):
    nat.world.set_lifecycle_state(nat.instance, "Warmed:Pending:Wait")
    ran = nat.claim("--dry-run", within=without_net_admin())
    assert ran.code == 1, ran
    assert "CAP_NET_ADMIN" in ran.error


def test_read_only_settings(nat):
    ran = nat.claim(within=with_read_only("/proc/sys"))
    refused(nat, ran, "setting net.ipv4.ip_forward to 1", "Read-only file system")


def test_read_only_settings_that_are_right_already(nat):
    assert nat.claim().code == 0
    assert nat.claim(within=with_read_only("/proc/sys")).code == 0


@pytest.mark.parametrize("text", ["", "yes\n"])
def test_a_garbled_setting(nat, tmp_path, text):
    file = tmp_path / "value"
    file.write_text(text)
    ran = nat.claim(within=with_files({"/proc/sys/net/ipv4/conf/all/rp_filter": file}))
    refused(nat, ran, "reading net.ipv4.conf.all.rp_filter", repr(text.strip()).replace("'", '"'))


def test_a_kernel_that_does_not_do_what_it_says(nat):
    with OtherKernel(forgets=True) as kernel:
        ran = nat.claim(preexec=kernel.install)
    refused(nat, ran, "still lacks: nftables table ip hanat created")


def test_the_interface_is_not_there(nat):
    nat.machine.set_link("ens5", address="02:00:00:00:00:99")
    ran = nat.claim()
    refused(nat, ran, "no network interface has", "the MAC address that IMDS names")


def test_a_similar_address_is_another_interface(nat):
    with nat.machine.netlink() as netlink:
        mac = netlink.get_links(ifname="ens5")[0].get("address")
        similar = mac[:-1] + ("0" if mac[-1] != "0" else "1")
        netlink.link("add", ifname="a0", kind="veth", address=similar, peer={"ifname": "a1"})
    assert nat.claim().code == 0
    assert 'oifname != "ens5"' in ruleset(nat.machine)


def test_two_interfaces_with_the_address(nat):
    with nat.machine.netlink() as netlink:
        mac = netlink.get_links(ifname="ens5")[0].get("address")
        netlink.link("add", ifname="a0", kind="veth", address=mac, peer={"ifname": "a1"})
    ran = nat.claim()
    refused(nat, ran, "a0", "ens5", "all have", "the MAC address that IMDS names")


def test_a_bridge_over_the_interface(nat):
    """As container hosts make them; what leaves does so by the bridge."""
    with nat.machine.netlink() as netlink:
        link = netlink.get_links(ifname="ens5")[0]
        netlink.link("add", ifname="br0", kind="bridge", address=link.get("address"))
        bridge = netlink.link_lookup(ifname="br0")[0]
        netlink.link("set", index=link["index"], master=bridge)
        netlink.link("set", index=bridge, state="up")
    assert nat.claim().code == 0
    assert 'oifname != "br0"' in ruleset(nat.machine)


@pytest.mark.parametrize(
    ("lacks", "cause"),
    [
        ("nfnetlink", "the kernel is built without nf_tables"),
        ("nf_tables", "the kernel may lack nf_tables"),
        ("nft_masq", "the kernel lacks a part of nf_tables, such as nft_masq"),
    ],
)
def test_a_kernel_that_lacks_something(nat, lacks, cause):
    with OtherKernel(lacks=lacks) as kernel:
        ran = nat.claim(preexec=kernel.install)
    refused(nat, ran, "nftables", cause)


def test_docker_drops_what_is_forwarded(nat):
    iptables(nat.machine, "-N", "DOCKER-USER")
    iptables(nat.machine, "-A", "DOCKER-USER", "-j", "RETURN")
    iptables(nat.machine, "-A", "FORWARD", "-j", "DOCKER-USER")
    iptables(nat.machine, "-A", "FORWARD", "-i", "docker0", "-j", "ACCEPT")
    iptables(nat.machine, "-P", "FORWARD", "DROP")
    before = ruleset(nat.machine)
    ran = nat.claim()
    refused(nat, ran, "chain FORWARD of table ip filter has the policy drop", "ens5")
    assert settings(nat) == SETTINGS, "what is its own does not wait for others"
    nft(nat.machine, "delete table ip hanat")
    assert ruleset(nat.machine) == before


def test_docker_with_a_rule_of_the_users(nat):
    iptables(nat.machine, "-N", "DOCKER-USER")
    iptables(nat.machine, "-A", "DOCKER-USER", "-i", "ens5", "-o", "ens5", "-j", "ACCEPT")
    iptables(nat.machine, "-A", "FORWARD", "-j", "DOCKER-USER")
    iptables(nat.machine, "-P", "FORWARD", "DROP")
    assert nat.claim().code == 0


@pytest.mark.parametrize(
    "accepting",
    [
        ["-m", "comment", "--comment", "the NAT", "-i", "ens5", "-o", "ens5"],
        ["-s", "10.0.0.0/16", "-i", "ens+"],
    ],
)
def test_ways_to_let_pass_with_iptables(nat, accepting):
    iptables(nat.machine, "-P", "FORWARD", "DROP")
    known = ["-m", "conntrack", "--ctstate", "ESTABLISHED"]
    iptables(nat.machine, "-A", "FORWARD", *known, "-j", "ACCEPT")
    iptables(nat.machine, "-A", "FORWARD", *accepting, "-j", "ACCEPT")
    ran = nat.claim()
    assert ran.code == 0, ran


def test_ways_to_let_pass_with_nft(nat):
    """In a table of both families an address is preceded by its family."""
    nft(
        nat.machine,
        """table inet filter {
            chain forward {
                type filter hook forward priority filter; policy drop;
                meta mark set 1
                ct state established accept
                ip saddr 10.0.0.0/16 accept
            }
        }""",
    )
    ran = nat.claim()
    assert ran.code == 0, ran


def test_a_firewall_that_drops_while_it_reloads(nat):
    """As firewalld does; it is waited for."""
    nft(
        nat.machine,
        "table inet firewalld_policy_drop { "
        "chain c { type filter hook forward priority 0; policy drop; }; }",
    )
    with nat.start() as running:
        nat.world.wait_for("ModifyNetworkInterfaceAttribute")
        nft(nat.machine, "delete table inet firewalld_policy_drop")
        ran = running.wait()
    assert ran.code == 0, ran


def test_variables_that_a_template_left_empty(nat):
    times = [f"CONNTRACK_{name.upper().replace('-', '_')}" for name in TIMES]
    names = ["SOURCE", "CONNTRACK_MAX", "CONNTRACK_BUCKETS", *times]
    ran = nat.claim(env={f"HANAT_{name}": "" for name in names})
    assert ran.code == 0, ran


def test_as_many_rules_as_make_a_batch_of_64(nat):
    """Or 63, or 65, or a multiple: everything is there, and what is wrong is known."""
    blocks = [f"192.168.{2 * n}.0/24" for n in range(100)]
    for n in (*range(43, 48), 100):
        ran = nat.claim("--source", ",".join(blocks[:n]))
        assert ran.code == 0, ran
        assert ruleset(nat.machine).count(" masquerade\n") == n
        with OtherKernel(lacks="nft_masq") as kernel:
            nft(nat.machine, "flush ruleset")
            ran = nat.claim("--source", ",".join(blocks[:n]), preexec=kernel.install)
        assert "nft_masq" in ran.error, ran


def test_as_many_addresses_and_blocks_as_there_can_be(nat):
    """50 addresses an interface (EC2 user guide, "IP addresses per network interface per instance
    type"), 50 blocks a VPC (Amazon VPC user guide, "Amazon VPC quotas")."""
    about = "/latest/meta-data/network/interfaces/macs/*"
    lists = {
        "local-ipv4s": [nat.private_address, *(f"10.0.200.{n}" for n in range(1, 50))],
        "vpc-ipv4-cidr-blocks": ["10.0.0.0/16", *(f"100.64.{2 * n}.0/24" for n in range(49))],
    }
    for name, values in lists.items():
        body = Body("\n".join(values))
        nat.world.weather(Rule(None, body, service="imds", path=f"{about}/{name}"))
    sources = ",".join(f"192.168.{2 * n}.0/24" for n in range(100))
    for _ in range(2):
        ran = nat.claim("--source", sources, "--output", "json")
        assert ran.code == 0, ran
    assert ran.json["kernel"]["changes"] == []
    listed = ruleset(nat.machine)
    assert listed.count("ip saddr 10.0.") == 50
    assert listed.count(" masquerade\n") == 100


def test_firewalld_rejects_what_is_forwarded(nat):
    nft(
        nat.machine,
        """table inet firewalld {
            chain filter_FWD_public { }
            chain filter_FORWARD {
                type filter hook forward priority 10; policy accept;
                ct state established,related accept
                iifname "ens5" jump filter_FWD_public
                reject with icmpx admin-prohibited
            }
        }""",
    )
    ran = nat.claim()
    refused(nat, ran, "a rule in chain filter_FORWARD of table inet firewalld drops it")


def test_a_table_that_sleeps_drops_nothing(nat):
    nft(
        nat.machine,
        "table ip asleep { flags dormant; "
        "chain c { type filter hook forward priority 0; policy drop; }; }",
    )
    assert nat.claim().code == 0


# --- --no-kernel ------------------------------------------------------------------------------


def forward(nat: Nat) -> None:
    nat.machine.write_sysctl("net/ipv4/ip_forward", 1)


def test_a_nat_that_the_image_brings(nat):
    forward(nat)
    iptables(nat.machine, "-t", "nat", "-A", "POSTROUTING", "-o", "ens5", "-j", "MASQUERADE")
    before = ruleset(nat.machine)
    ran = nat.claim("--no-kernel", "--output", "json")
    assert ran.code == 0, ran
    assert ran.json["kernel"] == {
        "interface": "ens5",
        "changes": [],
        "masquerading_elsewhere": ["chain POSTROUTING of table ip nat"],
        "warnings": [],
        "answers_elsewhere": [],
    }
    assert ruleset(nat.machine) == before
    assert nat.owns(nat.scene.private_tables[OWN])


@pytest.mark.parametrize(
    "rules",
    [
        "table inet mine { chain c { type nat hook postrouting priority 100; "
        "snat ip to 10.0.0.4; }; }",
        "table ip mine { chain d { masquerade; }; chain c { type nat hook postrouting priority 0; "
        "ip saddr 10.0.0.0/8 jump d; }; }",
    ],
)
def test_other_ways_to_masquerade(nat, rules):
    forward(nat)
    nft(nat.machine, rules)
    ran = nat.claim("--no-kernel")
    assert ran.code == 0, ran
    assert "chain c of table" in ran.stdout


def test_an_image_that_does_not_forward(nat):
    nft(
        nat.machine,
        "table ip mine { chain c { type nat hook postrouting priority 100; masquerade; }; }",
    )
    refused(nat, nat.claim("--no-kernel"), "ens5 does not forward", "net.ipv4.ip_forward")


@pytest.mark.parametrize(
    "rules",
    [
        "",
        "table ip mine { chain c { masquerade; }; }",
        "table ip mine { chain c { type nat hook postrouting priority 100; "
        'oifname "wg0" masquerade; }; }',
        "table ip docker { chain c { type nat hook postrouting priority 100; "
        'oifname != "docker0" ip saddr 172.17.0.0/16 masquerade; }; }',
        "table ip mine { flags dormant; "
        "chain c { type nat hook postrouting priority 100; masquerade; }; }",
    ],
    ids=["none", "no hook", "another interface", "docker's own", "dormant"],
)
def test_an_image_that_does_not_masquerade(nat, rules):
    forward(nat)
    nft(nat.machine, rules)
    ran = nat.claim("--no-kernel")
    refused(nat, ran, "no nftables rule on the postrouting hook masquerades what leaves by ens5")


@pytest.mark.parametrize(
    ("rules", "warning"),
    [
        (
            "chain n { type nat hook postrouting priority 100; masquerade; }; "
            "chain f { type filter hook forward priority 0; policy drop; tcp dport 443 accept; };",
            "forwarded packets may be dropped: chain f of table ip mine",
        ),
        # As subnet routers of overlay networks do, for their own packets only.
        (
            "chain n { type nat hook postrouting priority 100; meta mark 0x40000 masquerade; }; "
            "chain p { type filter hook prerouting priority 0; numgen random mod 2 0 "
            "meta mark set 0x40000; };",
            "chain n of table ip mine masquerades only some packets",
        ),
    ],
    ids=["a firewall", "masquerading by a mark"],
)
def test_what_is_not_understood_of_the_image_is_told_of(nat, rules, warning):
    """It may let pass what it should in ways that are not understood here."""
    forward(nat)
    nft(nat.machine, f"table ip mine {{ {rules} }}")
    ran = nat.claim("--no-kernel")
    assert ran.code == 0, ran
    assert f"WARN {warning}" in ran.stderr


def test_flags_that_exclude_each_other(nat):
    ran = nat.claim("--no-kernel", "--source", "10.0.0.0/8")
    assert ran.code == 2, ran
    assert "--no-kernel" in ran.stderr


# --- The warm pool ----------------------------------------------------------------------------


def test_on_the_way_into_the_warm_pool_the_kernel_is_prepared(nat):
    nat.world.set_lifecycle_state(nat.instance, "Warmed:Pending:Wait")
    assert nat.claim().code == 0
    assert settings(nat) == SETTINGS
