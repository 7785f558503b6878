"""Other people's firewalls on a NAT instance: what lets packets pass is no obstacle, what drops
them for certain is one, and what cannot be told is said."""

import contextlib
import random

import pytest

from tests.kernel.test_setup import forward, refused
from tests.stages.kernel import iptables, nft
from tests.stages.packets import SECOND_BLOCK, Host, Surroundings, ping, tcp, udp

MAY = "WARN forwarded packets may be dropped: "


def filtering(*rules: str, policy: str = "drop", more: str = "") -> str:
    """A table whose forward chain has the rules."""
    return (
        f"table inet filter {{ {more} chain forward {{ "
        f"type filter hook forward priority 0; policy {policy}; {'; '.join(rules)}; }}; }}"
    )


ESTABLISHED = "ct state established,related accept"
NETS = (
    "set nets { type ipv4_addr; flags interval; elements = { 10.0.0.0/16, 10.7.0.0/16 }; }; "
    "set lans { type ifname; elements = { ens5, wg0 }; };"
)

PASSES = {
    "a list of interfaces": filtering('iifname { "ens5", "wg0" } accept'),
    "one of patterns": filtering('iifname { "ens*", "wg0" } accept'),
    "by number": filtering("iif ens5 oif { ens5, lo } accept"),
    "in and out": filtering('iifname . oifname { "ens5" . "ens5", "wg0" . "ens5" } accept'),
    "blocks": filtering(ESTABLISHED, "ip saddr { 10.0.0.0/16, 10.7.0.0/16 } accept"),
    "a block each": filtering(
        ESTABLISHED, "ip saddr 10.0.0.0/16 accept", "ip saddr 10.7.0.0/16 accept"
    ),
    "blocks by name": filtering(ESTABLISHED, "ip saddr @nets accept", more=NETS),
    "interfaces by name": filtering("iifname @lans oifname @lans accept", more=NETS),
    "protocols": filtering("meta l4proto { tcp, udp, icmp } accept"),
    "new ones": filtering(ESTABLISHED, "ct state new accept"),
    "states in a set": filtering("ct state { new, established, related } accept"),
    "a map of states": filtering(
        "ct state vmap { established : accept, related : accept, invalid : drop }",
        'iifname vmap { "lo" : accept, "ens5" : jump lan }',
        more="chain lan { ip saddr vmap { 10.0.0.0/16 : accept, 10.7.0.0/16 : accept }; };",
    ),
    "what is invalid, local, somebody's, private or of a port": filtering(
        "ct state invalid drop",
        "fib daddr type local drop",
        "ip saddr { 10.0.1.77, 192.0.2.0/24 } drop",
        ESTABLISHED,
        "ip daddr { 10.0.0.0/8, 192.168.0.0/16 } drop",
        "tcp dport { 25, 445 } drop",
        "meta mark 7 drop",
        "ip ttl < 2 drop",
        "tcp flags & (syn | fin) == syn | fin drop",
        "limit rate over 10000/second drop",
        policy="accept",
    ),
    "not in these": filtering(
        'iifname != { "docker0", "br0" } ct direction original accept',
        "ct status snat ct direction reply accept",
    ),
    "a mark by rule of its own": filtering(
        ESTABLISHED,
        'iifname "ens5" meta mark 0 ct mark 0 accept',
        'iifname "wg0" meta mark set 1',
    ),
}


@pytest.mark.parametrize("rules", PASSES.values(), ids=PASSES)
def test_what_lets_packets_pass_is_no_obstacle(nat, around, rules):
    nft(nat.machine, rules)
    ran = nat.claim()
    assert ran.code == 0, ran
    assert MAY not in ran.stderr
    for client in (around.client, around.other):
        for send in (tcp, udp, ping):
            assert send(client, around.outside) == nat.private_address


IPTABLES = {
    "a block each": [
        "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A FORWARD -s 10.0.0.0/16 -j ACCEPT",
        "-A FORWARD -s 10.7.0.0/16 -j ACCEPT",
    ],
    "a range": [
        "-A FORWARD -m state --state ESTABLISHED -j ACCEPT",
        "-A FORWARD -m iprange --src-range 10.0.0.0-10.7.255.255 -j ACCEPT",
    ],
    "as Docker has it": [
        "-N DOCKER-USER",
        "-N DOCKER-FORWARD",
        "-A FORWARD -j DOCKER-USER",
        "-A FORWARD -j DOCKER-FORWARD",
        "-A DOCKER-FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A DOCKER-FORWARD -i docker0 -j ACCEPT",
        "-A DOCKER-USER -i ens5 -m conntrack --ctstate NEW -m comment --comment NAT -j ACCEPT",
        "-A DOCKER-USER -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
    ],
    "as ufw has it": [
        "-N ufw-before-forward",
        "-N ufw-user-forward",
        "-A FORWARD -j ufw-before-forward",
        "-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A ufw-before-forward -p icmp --icmp-type echo-request -j ACCEPT",
        "-A ufw-before-forward -j ufw-user-forward",
        "-A ufw-user-forward -i ens5 -o ens5 -j ACCEPT",
        "-A FORWARD -m limit --limit 3/min -j LOG",
    ],
    "as kube-proxy has it": [
        "-N KUBE-FORWARD",
        "-A FORWARD -m conntrack --ctstate NEW -j KUBE-FORWARD",
        "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
        "-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT",
        "-A FORWARD -m addrtype ! --dst-type LOCAL -j ACCEPT",
    ],
    "no mail": [
        "-A FORWARD -p tcp -m multiport ! --dports 25,465 -j ACCEPT",
        "-A FORWARD -p udp ! --dport 25 -j ACCEPT",
        "-A FORWARD -p icmp -j ACCEPT",
    ],
}


@pytest.mark.parametrize("rules", IPTABLES.values(), ids=IPTABLES)
def test_what_lets_packets_pass_by_iptables(nat, around, rules):
    iptables(nat.machine, "-P", "FORWARD", "DROP")
    for rule in rules:
        iptables(nat.machine, *rule.split())
    ran = nat.claim()
    assert ran.code == 0, ran
    assert MAY not in ran.stderr
    for client in (around.client, around.other):
        for send in (tcp, udp, ping):
            assert send(client, around.outside) == nat.private_address


UNCERTAIN = {
    "by chance": (filtering("numgen random mod 2 0 drop", policy="accept"), "numgen"),
    "some clients": (filtering(ESTABLISHED, "ip saddr 10.0.1.0/24 accept"), "ip saddr"),
    "some ports": (filtering(ESTABLISHED, "tcp dport { 80, 443 } accept"), "tcp dport"),
    "a mark that is set": (
        filtering(ESTABLISHED, "tcp dport 22 meta mark set 1", "meta mark 1 accept"),
        "meta mark",
    ),
    "not so many": (filtering(ESTABLISHED, "limit rate 100/second accept"), "a limit"),
    "no ping": (filtering("meta l4proto { tcp, udp } accept"), "if it is ICMP"),
}


@pytest.mark.parametrize(("rules", "named"), UNCERTAIN.values(), ids=UNCERTAIN)
def test_what_cannot_be_told_is_said(nat, rules, named):
    nft(nat.machine, rules)
    ran = nat.claim("--output", "json")
    assert ran.code == 0, ran
    warnings = "\n".join(ran.json["kernel"]["warnings"])
    assert "forwarded packets may be dropped: " in warnings
    assert "chain forward" in warnings
    assert named in warnings
    assert f"{MAY}" in ran.stderr


def test_a_match_that_is_not_understood_is_said(nat):
    iptables(nat.machine, "-P", "FORWARD", "DROP")
    recently = ["-m", "recent", "--name", "x", "--update"]
    iptables(nat.machine, "-A", "FORWARD", *recently, "-j", "ACCEPT")
    ran = nat.claim()
    assert ran.code == 0, ran
    assert f"{MAY}chain FORWARD of table ip filter has the policy drop" in ran.stderr
    assert "iptables' match recent in chain FORWARD" in ran.stderr


POLICY = "chain forward of table inet filter has the policy drop"
DROPS = {
    "only known ones": (filtering(ESTABLISHED), POLICY),
    "other interfaces": (filtering('iifname { "eth0", "wg0" } accept'), POLICY),
    "other blocks": (filtering(ESTABLISHED, "ip saddr { 172.16.0.0/12 } accept"), POLICY),
    "one of two blocks": (
        filtering(ESTABLISHED, "ip saddr 10.0.0.0/16 accept"),
        f"{POLICY} (10.7.0.0/16)",
    ),
    "only ping": (filtering("meta l4proto icmp accept"), POLICY),
    "marked ones, and none is": (filtering("meta mark 1 accept"), POLICY),
    "new ones": (
        filtering("ct state new reject", policy="accept"),
        "a rule in chain forward of table inet filter drops it",
    ),
}


@pytest.mark.parametrize(("rules", "cause"), DROPS.values(), ids=DROPS)
def test_what_drops_for_certain_is_an_obstacle(nat, rules, cause):
    nat.world.ec2.associate_vpc_cidr_block(VpcId=nat.scene.vpc, CidrBlock=SECOND_BLOCK)
    nft(nat.machine, rules)
    refused(nat, nat.claim(), cause)


@pytest.mark.parametrize(
    "rule", ['iifname "ens5" ip saddr { 10.0.0.0/8 } accept', "ct state new accept"]
)
def test_what_drops_the_answers_alone_is_told_with_the_mend(nat, rule):
    nft(nat.machine, filtering(rule))
    ran = nat.claim()
    assert ran.code == 0, ran
    [said] = [line for line in ran.stderr.splitlines() if "answers to forwarded" in line]
    assert (
        f" WARN answers to forwarded packets, or what follows them, would be dropped: {POLICY}"
        in said
    )
    assert "ct state established,related accept" in said


@pytest.mark.parametrize(
    ("condition", "warns"),
    [
        ("ip saddr { 10.0.0.0/16, 10.1.0.0/16 }", False),
        ("ct state new", False),
        ('oifname { "ens5", "wg0" }', False),
        ("meta l4proto tcp", True),
    ],
)
def test_conditions_of_an_images_own_masquerading(nat, condition, warns):
    forward(nat)
    nft(
        nat.machine,
        "table ip mine { chain c { type nat hook postrouting priority 100; "
        f"{condition} masquerade; }}; }}",
    )
    ran = nat.claim("--no-kernel")
    assert ran.code == 0, ran
    assert ("masquerades only some packets" in ran.stderr) == warns


# --- Whatever the rules ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_what_it_says_is_what_packets_meet(nat, around, seed):
    """Of rules drawn at random: what would be dropped is, and what is neither said to be nor a
    doubt passes."""
    drawn = random.Random(seed)
    assert nat.claim().code == 0
    told = {"passes": 0, "drops": 0}
    for _ in range(8):
        rules = "; ".join(_rule(drawn, ["a", "b"]) for _ in range(drawn.randint(1, 4)))
        a, b = (_rule(drawn, []) for _ in range(2))
        filtered = filtering(
            rules,
            policy=drawn.choice(["drop", "accept"]),
            more=f"chain a {{ {a}; }}; chain b {{ {b}; {_rule(drawn, ['a'])}; }};",
        )
        nft(nat.machine, filtered)
        ran = nat.claim("--dry-run")
        passes = [_passes(client, around) for client in (around.client, around.other)]
        if "would be dropped" in ran.stderr:
            assert not all(passes), filtered
            told["drops"] += 1
        elif MAY not in ran.stderr:
            assert ran.code == 0, ran
            assert all(passes), filtered
            told["passes"] += 1
        nft(nat.machine, "delete table inet filter")
    assert all(told.values()), told


def _passes(client: Host, around: Surroundings) -> bool:
    """Whether a TCP connection comes about, with something sent and answered."""
    with around.outside.socket() as listener, client.socket() as sock:
        listener.bind((around.outside.address, 0))
        listener.listen()
        for one in (listener, sock):
            one.settimeout(0.5)
        with contextlib.suppress(TimeoutError, ConnectionError):
            sock.connect(listener.getsockname())
            conn, _ = listener.accept()
            with conn:
                conn.settimeout(0.5)
                sock.sendall(b"hello")
                conn.sendall(conn.recv(5))
                return sock.recv(5) == b"hello"
    return False


def _rule(drawn: random.Random, chains: list[str]) -> str:
    conditions = [
        'iifname "ens5"',
        'iifname { "ens5", "wg0" }',
        'oifname != { "wg0" }',
        'iifname "e*"',
        "ip saddr 10.0.0.0/16",
        "ip saddr { 10.0.0.0/16, 10.7.0.0/16 }",
        "ip saddr != 10.7.0.0/16",
        "ip daddr 10.0.0.0/8",
        "ip daddr { 10.0.0.0/16, 10.7.0.0/16 }",
        "ct state new",
        "ct state { established, related }",
        "ct state != established",
        "ct direction reply",
        "ct original ip saddr 10.0.0.0/9",
        "meta l4proto { tcp, udp }",
        "ip protocol tcp",
        "th dport 22",
        "meta mark 0",
        "fib daddr type local",
    ]
    verdicts = ["accept", "drop", "return", *(f"jump {chain}" for chain in chains)]
    picked = drawn.sample(conditions, drawn.randint(0, 2))
    return " ".join([*picked, drawn.choice(verdicts)])
