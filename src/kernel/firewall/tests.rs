//! What becomes of a forwarded packet in the chains that Docker, firewalld and people make.

use netlink_bindings::nftables::{CmpOps, CtKeys, MetaKeys, PayloadBase};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::kernel::ruleset::{Base, Expr, Others, Rule, Verdict};
use crate::kernel::sets::{Element, Set};

const VPC: &str = "10.0.0.0/16";
const SECOND: &str = "10.1.0.0/16";

fn rule(conditions: &[Rule], end: Expr) -> Rule {
    let mut rule = conditions.concat();
    rule.extend([Expr::Counter, end]);
    rule
}

fn verdict(conditions: &[Rule], verdict: Verdict) -> Rule {
    rule(conditions, Expr::Verdict(verdict))
}

fn interface(key: MetaKeys, op: CmpOps, name: &[u8]) -> Rule {
    let op = op as u32;
    let value = name.to_vec();
    vec![Expr::Meta(key as u32), Expr::Cmp { op, value }]
}

fn comes_in_by(name: &[u8]) -> Rule {
    interface(MetaKeys::Iifname, CmpOps::Eq, name)
}

/// As iptables writes it: whole bytes, without a mask.
fn comes_from(bytes: &[u8]) -> Rule {
    let len = u32::try_from(bytes.len()).unwrap();
    let (base, offset) = (PayloadBase::NetworkHeader as u32, 12);
    let (op, value) = (CmpOps::Eq as u32, bytes.to_vec());
    vec![Expr::Payload { base, offset, len }, Expr::Cmp { op, value }]
}

fn state(bits: u8) -> Rule {
    let key = CtKeys::State as u32;
    let (op, value) = (CmpOps::Neq as u32, vec![0; 4]);
    vec![
        Expr::Ct(key),
        Expr::Mask(vec![bits, 0, 0, 0]),
        Expr::Cmp { op, value },
    ]
}

fn established() -> Rule {
    state(6)
}

fn is_new() -> Rule {
    state(8)
}

/// What nobody here understands.
fn unknown() -> Rule {
    vec![Expr::Other("osf".into())]
}

fn table(kind: &str, hook: u32, drops: bool, chains: &[(&str, Vec<Rule>)]) -> Table {
    let base = Base {
        kind: kind.into(),
        hook,
        priority: 0,
        drops,
    };
    let chains = chains.iter().enumerate();
    let chains = chains.map(|(number, (name, rules))| Chain {
        name: (*name).to_owned(),
        base: (number == 0).then(|| base.clone()),
        rules: rules.clone(),
    });
    Table {
        family: FAMILY_IPV4,
        name: "filter".into(),
        flags: 0,
        chains: chains.collect(),
    }
}

fn with_packet<T>(follow: impl FnOnce(&Packet<'_>) -> T) -> T {
    with_blocks(&[VPC], follow)
}

fn with_blocks<T>(blocks: &[&str], follow: impl FnOnce(&Packet<'_>) -> T) -> T {
    let sources: Vec<_> = blocks.iter().map(|block| block.parse().unwrap()).collect();
    follow(&Packet {
        interface: "ens5",
        index: 2,
        sources: &sources,
    })
}

fn judged(drops: bool, chains: &[(&str, Vec<Rule>)]) -> Judgement {
    judged_with(&Sets::new(), drops, chains)
}

fn judged_with(sets: &Sets, drops: bool, chains: &[(&str, Vec<Rule>)]) -> Judgement {
    let table = table("filter", HOOK_FORWARD, drops, chains);
    with_packet(|packet| Rules::new([&table].into_iter(), sets).judge(packet))
}

/// What stands in the way of packets from the VPC's blocks; of answers where those pass.
fn dropped(drops: bool, chains: &[(&str, Vec<Rule>)]) -> String {
    let judgement = judged(drops, chains);
    assert_eq!(judgement.doubts, [] as [String; 0], "no doubt");
    [judgement.obstacles, judgement.lost_answers]
        .concat()
        .join(", ")
}

fn masked(chains: &[(&str, Vec<Rule>)]) -> bool {
    let table = table("nat", HOOK_POSTROUTING, false, chains);
    let sets = Sets::new();
    with_packet(|packet| {
        !Rules::new([&table].into_iter(), &sets)
            .maskers(packet)
            .is_empty()
    })
}

fn jump(to: &str) -> Verdict {
    Verdict::Jump(to.into())
}

#[test]
fn a_policy_decides_what_no_rule_decides() {
    assert_eq!(dropped(false, &[("FORWARD", vec![])]), "");
    assert_eq!(
        dropped(true, &[("FORWARD", vec![])]),
        "chain FORWARD of table ip filter has the policy drop"
    );
}

#[test]
fn docker_drops_until_a_rule_of_the_user_lets_pass() {
    let leaves_by_docker0 = interface(MetaKeys::Oifname, CmpOps::Eq, b"docker0\0");
    let forward = vec![
        verdict(&[], jump("DOCKER-USER")),
        verdict(&[leaves_by_docker0], jump("DOCKER")),
        verdict(&[comes_in_by(b"docker0\0")], Verdict::Accept),
    ];
    let user = |rules: Vec<Rule>| {
        dropped(
            true,
            &[("FORWARD", forward.clone()), ("DOCKER-USER", rules)],
        )
    };
    let accept = |condition| verdict(&[condition], Verdict::Accept);
    assert!(user(vec![verdict(&[], Verdict::Return)]).contains("policy drop"));
    assert_eq!(user(vec![accept(comes_in_by(b"ens5\0"))]), "");
    let known = accept(established());
    let from = |block: &[u8]| vec![known.clone(), accept(comes_from(block))];
    assert_eq!(user(from(&[10, 0])), "");
    assert!(user(from(&[10, 1])).contains("policy drop"));
}

#[test]
fn firewalld_rejects_at_the_end() {
    let zones = |zone: Vec<Rule>| {
        let forward = vec![
            verdict(&[established()], Verdict::Accept),
            verdict(&[], jump("filter_FORWARD_ZONES")),
            rule(&[], Expr::Reject),
        ];
        let to_zone = Verdict::Goto("filter_FWD_public".into());
        let zones = vec![verdict(&[comes_in_by(b"ens")], to_zone)];
        dropped(
            false,
            &[
                ("filter_FORWARD", forward),
                ("filter_FORWARD_ZONES", zones),
                ("filter_FWD_public", zone),
            ],
        )
    };
    let blocked = "a rule in chain filter_FORWARD of table ip filter drops it";
    assert_eq!(zones(vec![]), blocked);
    let out = interface(MetaKeys::Oifname, CmpOps::Eq, b"ens5\0");
    assert_eq!(zones(vec![verdict(&[out], Verdict::Accept)]), "");
}

#[test]
fn states() {
    let accept = |condition| verdict(&[condition], Verdict::Accept);
    let policy = "chain c of table ip filter has the policy drop";
    let only = |rules| judged(true, &[("c", rules)]);
    let found = only(vec![accept(established())]);
    assert_eq!(found.obstacles, [policy], "new ones are dropped");
    let found = only(vec![accept(is_new())]);
    assert_eq!(found.obstacles, [] as [&str; 0]);
    assert_eq!(found.lost_answers, [policy]);
    let found = only(vec![accept(is_new()), accept(established())]);
    assert_eq!(found, Judgement::default());
    let drop = |condition| vec![verdict(&[condition], Verdict::Drop)];
    let found = judged(false, &[("c", drop(state(1)))]);
    assert_eq!(found, Judgement::default(), "nothing is invalid");
    let both_ways = vec![accept(comes_from(&[10, 0]))];
    assert_eq!(only(both_ways).lost_answers, [policy]);
}

#[test]
fn what_is_not_understood_is_a_doubt() {
    for (drops, decides) in [(true, Verdict::Accept), (false, Verdict::Drop)] {
        let found = judged(drops, &[("c", vec![verdict(&[unknown()], decides)])]);
        assert_eq!(found.obstacles, [] as [&str; 0]);
        assert_eq!(found.doubts.len(), 1, "{found:?}");
        assert!(
            found.doubts[0].ends_with("hangs on osf in chain c"),
            "{found:?}"
        );
    }
    // Whatever it is, it decides nothing.
    for (drops, decides) in [(true, Verdict::Drop), (false, Verdict::Accept)] {
        let doubts = judged(drops, &[("c", vec![verdict(&[unknown()], decides)])]).doubts;
        assert_eq!(doubts, [] as [&str; 0]);
    }
    let masquerade = Expr::Masquerade { flags: 0 };
    let both = [comes_in_by(b"ens5\0"), unknown()];
    assert!(masked(&[("c", vec![rule(&both, masquerade)])]));
}

#[test]
fn each_block_by_itself() {
    let accept = |condition| verdict(&[condition], Verdict::Accept);
    let judge = |blocks: &[&str]| {
        let sources = blocks.iter().map(|block| {
            let [a, b, ..] = block.parse::<Ipv4Net>().unwrap().network().octets();
            accept(comes_from(&[a, b]))
        });
        let mut rules: Vec<Rule> = sources.collect();
        rules.push(accept(established()));
        let table = table("filter", HOOK_FORWARD, true, &[("c", rules)]);
        let sets = Sets::new();
        let rules = Rules::new([&table].into_iter(), &sets);
        with_blocks(&[VPC, SECOND], |packet| rules.judge(packet))
    };
    assert_eq!(judge(&[VPC, SECOND]), Judgement::default());
    assert_eq!(
        judge(&[VPC]).obstacles,
        ["chain c of table ip filter has the policy drop (10.1.0.0/16)"]
    );
}

#[test]
fn what_only_some_packets_have() {
    let accept = |condition| vec![verdict(&[condition], Verdict::Accept)];
    let drop = |condition| vec![verdict(&[condition], Verdict::Drop)];
    let protocol = |number: u8| {
        let (op, value) = (CmpOps::Eq as u32, vec![number]);
        vec![
            Expr::Meta(MetaKeys::L4Proto as u32),
            Expr::Cmp { op, value },
        ]
    };
    let port = |port: u16| {
        let base = PayloadBase::TransportHeader as u32;
        let (offset, len) = (2, 2);
        let (op, value) = (CmpOps::Eq as u32, port.to_be_bytes().to_vec());
        let compares = vec![Expr::Payload { base, offset, len }, Expr::Cmp { op, value }];
        [protocol(6), compares].concat()
    };
    let judged = |drops, rules: Vec<Rule>| judged(drops, &[("c", rules)]);
    // Somebody's own rules for a port or an address are their own business.
    assert_eq!(judged(false, drop(port(25))), Judgement::default());
    let one = comes_from(&[10, 0, 0, 9]);
    assert_eq!(judged(false, drop(one.clone())), Judgement::default());
    // The rest is dropped.
    for some in [port(443), one, comes_from(&[10, 0, 5])] {
        let found = judged(true, [accept(established()), accept(some)].concat());
        assert_eq!(found.obstacles, [] as [&str; 0]);
        assert_eq!(found.doubts.len(), 1, "{found:?}");
    }
    assert_eq!(
        judged(true, accept(protocol(1))).obstacles.len(),
        1,
        "only ping"
    );
    assert_eq!(
        judged(true, accept(protocol(6))).doubts,
        [
            "chain c of table ip filter has the policy drop, if it is ICMP",
            "chain c of table ip filter has the policy drop, if it is UDP"
        ]
    );
}

fn sets(name: &str, elements: &[(&[u8], &[u8], Option<Verdict>)]) -> Sets {
    let elements = elements.iter().map(|(from, to, verdict)| Element {
        from: from.to_vec(),
        to: to.to_vec(),
        verdict: verdict.clone(),
    });
    let set = Set {
        elements: elements.collect(),
        catchall: None,
    };
    let key = (FAMILY_IPV4, "filter".to_owned(), name.to_owned());
    Sets::from([(key, Ok(set))])
}

const ENS5: [u8; 16] = *b"ens5\0\0\0\0\0\0\0\0\0\0\0\0";
const WG0: [u8; 16] = *b"wg0\0\0\0\0\0\0\0\0\0\0\0\0\0";

#[test]
fn sets_and_maps() {
    let in_by = Expr::Meta(MetaKeys::Iifname as u32);
    let looked_up = |inverted| {
        let set = "s".to_owned();
        let lookup = Expr::Others(Others::Lookup { set, inverted });
        vec![(
            "c",
            vec![verdict(&[vec![in_by.clone(), lookup]], Verdict::Accept)],
        )]
    };
    let lists = sets("s", &[(&ENS5, &ENS5, None), (&WG0, &WG0, None)]);
    let others = sets("s", &[(&WG0, &WG0, None)]);
    let drops = |sets: &Sets, rules: &[(&str, Vec<Rule>)]| {
        let found = judged_with(sets, true, rules);
        assert_eq!(found.doubts, [] as [&str; 0]);
        !found.obstacles.is_empty()
    };
    assert!(!drops(&lists, &looked_up(false)));
    assert!(drops(&lists, &looked_up(true)));
    assert!(drops(&others, &looked_up(false)));
    assert!(drops(&sets("s", &[]), &looked_up(false)));
    let found = judged_with(&Sets::new(), true, &looked_up(false));
    assert!(found.doubts[0].contains("@s in chain c"), "{found:?}");

    // In and out by one, as two fields of one key.
    let out_by = Expr::Meta(MetaKeys::Oifname as u32);
    let second = Expr::Others(Others::On(2, Box::new(out_by)));
    let set = "s".to_owned();
    let lookup = Expr::Others(Others::Lookup {
        set,
        inverted: false,
    });
    let both = vec![verdict(
        &[vec![in_by.clone(), second, lookup]],
        Verdict::Accept,
    )];
    let key = [ENS5, ENS5].concat();
    assert!(!drops(
        &sets("s", &[(&key, &key, None)]),
        &[("c", both.clone())]
    ));
    let key = [ENS5, WG0].concat();
    assert!(drops(&sets("s", &[(&key, &key, None)]), &[("c", both)]));

    let map = vec![vec![in_by, Expr::Others(Others::VerdictMap("s".into()))]];
    let jumps = |verdict: Verdict| sets("s", &[(&WG0, &WG0, None), (&ENS5, &ENS5, Some(verdict))]);
    let accepts = ("d", vec![verdict(&[], Verdict::Accept)]);
    assert!(!drops(
        &jumps(jump("d")),
        &[("c", map.clone()), accepts.clone()]
    ));
    assert!(drops(&jumps(Verdict::Drop), &[("c", map.clone()), accepts]));
    assert!(drops(&others, &[("c", map)]), "none for it");
}

#[test]
fn blocks_in_sets() {
    let from = Expr::Payload {
        base: PayloadBase::NetworkHeader as u32,
        offset: 12,
        len: 4,
    };
    let set = "s".to_owned();
    let lookup = Expr::Others(Others::Lookup {
        set,
        inverted: false,
    });
    let rules = [(
        "c",
        vec![
            verdict(&[established()], Verdict::Accept),
            verdict(&[vec![from, lookup]], Verdict::Accept),
        ],
    )];
    let block = |first: [u8; 4], last: [u8; 4]| (first, last);
    let judge = |blocks: &[([u8; 4], [u8; 4])]| {
        let elements: Vec<(&[u8], &[u8], Option<Verdict>)> = blocks
            .iter()
            .map(|(first, last)| (&first[..], &last[..], None))
            .collect();
        judged_with(&sets("s", &elements), true, &rules)
    };
    let low = block([10, 0, 0, 0], [10, 0, 127, 255]);
    let high = block([10, 0, 128, 0], [10, 0, 255, 255]);
    let other = block([192, 168, 0, 0], [192, 168, 255, 255]);
    assert_eq!(judge(&[low, high, other]), Judgement::default());
    assert_eq!(judge(&[low, other]).doubts.len(), 1);
    assert_eq!(judge(&[other]).obstacles.len(), 1);
}

#[test]
fn marks_are_0_unless_a_rule_on_the_way_sets_them() {
    let (op, value) = (CmpOps::Eq as u32, vec![1, 0, 0, 0]);
    let marked = vec![Expr::Meta(MetaKeys::Mark as u32), Expr::Cmp { op, value }];
    let accept = verdict(&[marked], Verdict::Accept);
    let judge = |mangle: Vec<Rule>| {
        let filter = table("filter", HOOK_FORWARD, true, &[("c", vec![accept.clone()])]);
        let mangle = table("filter", HOOK_PREROUTING, false, &[("p", mangle)]);
        let (sets, tables) = (Sets::new(), [&filter, &mangle]);
        with_packet(|packet| Rules::new(tables.into_iter(), &sets).judge(packet))
    };
    let sets_mark = || Expr::Others(Others::SetMark);
    assert_eq!(judge(vec![]).obstacles.len(), 1);
    let elsewhere = rule(&[comes_in_by(b"tailscale0\0")], sets_mark());
    assert_eq!(judge(vec![elsewhere]).obstacles.len(), 1);
    assert_eq!(judge(vec![rule(&[], sets_mark())]).doubts.len(), 1);
    let by_iptables = Expr::Target("MARK".into());
    assert_eq!(judge(vec![rule(&[], by_iptables)]).doubts.len(), 1);
}

#[test]
fn interfaces_by_number_by_prefix_and_negated() {
    let accepts = |condition| {
        dropped(true, &[("c", vec![verdict(&[condition], Verdict::Accept)])]).is_empty()
    };
    let by_number = |number: u32| interface(MetaKeys::Iif, CmpOps::Eq, &number.to_ne_bytes());
    assert!(accepts(by_number(2)));
    assert!(!accepts(by_number(3)));
    assert!(accepts(comes_in_by(b"ens")));
    assert!(accepts(comes_in_by(b"ens5\0\0\0\0\0\0\0\0\0\0\0\0")));
    assert!(!accepts(comes_in_by(b"ens50\0")));
    assert!(!accepts(comes_in_by(b"ens\0")));
    assert!(accepts(interface(
        MetaKeys::Iifname,
        CmpOps::Neq,
        b"docker0\0"
    )));
    assert!(!accepts(interface(
        MetaKeys::Iifname,
        CmpOps::Neq,
        b"ens5\0"
    )));
}

#[test]
fn chains_that_lead_in_circles_end() {
    let around = vec![verdict(&[], jump("c"))];
    assert!(dropped(true, &[("c", around)]).contains("policy"));
}

#[test]
fn a_goto_does_not_come_back() {
    let chains = [
        (
            "c",
            vec![
                verdict(&[], Verdict::Goto("d".into())),
                verdict(&[], Verdict::Accept),
            ],
        ),
        ("d", vec![]),
    ];
    assert!(dropped(true, &chains).contains("policy"));
}

#[test]
fn masquerading_for_others_does_not_count() {
    let masquerade = Expr::Masquerade { flags: 0 };
    assert!(masked(&[("c", vec![rule(&[], masquerade.clone())])]));
    assert!(masked(&[("c", vec![rule(&[], Expr::SourceNat)])]));
    assert!(masked(&[(
        "c",
        vec![rule(&[], Expr::Target("MASQUERADE".into()))]
    )]));
    assert!(!masked(&[(
        "c",
        vec![rule(&[], Expr::Target("DNAT".into()))]
    )]));
    // Docker's, for its containers only.
    assert!(!masked(&[(
        "c",
        vec![rule(&[comes_from(&[172, 17])], masquerade.clone())]
    )]));
    assert!(masked(&[(
        "c",
        vec![rule(&[comes_from(&[10])], masquerade.clone())]
    )]));
    let part = comes_from(&[10, 0, 5]);
    assert!(
        masked(&[("c", vec![rule(&[part], masquerade.clone())])]),
        "some of the VPC is"
    );
    let wan = interface(MetaKeys::Oifname, CmpOps::Eq, b"wg0\0");
    assert!(!masked(&[("c", vec![rule(&[wan], masquerade.clone())])]));
    let too_late = vec![
        verdict(&[comes_from(&[10, 0])], Verdict::Accept),
        rule(&[], masquerade.clone()),
    ];
    assert!(!masked(&[("c", too_late)]));
    let led_to = [
        ("c", vec![verdict(&[], jump("d"))]),
        ("d", vec![rule(&[], masquerade)]),
    ];
    assert!(masked(&led_to));
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..200)
}

fn load() -> impl Strategy<Value = Expr> {
    prop_oneof![
        (0..40_u32).prop_map(Expr::Meta),
        (0..5_u32, 0..30_u32, any::<u32>()).prop_map(|(base, offset, len)| Expr::Payload {
            base,
            offset,
            len
        }),
        (0..4_u32, any::<u32>(), any::<u32>()).prop_map(|(base, offset, len)| Expr::Payload {
            base,
            offset,
            len
        }),
        (0..30_u32, any::<u8>())
            .prop_map(|(key, direction)| Expr::Others(Others::CtOf { key, direction })),
        (0..30_u32).prop_map(Expr::Ct),
        (0..5_u32, 0..64_u32)
            .prop_map(|(result, flags)| Expr::Others(Others::Fib { result, flags })),
        bytes().prop_map(Expr::Value),
    ]
}

fn name_of_match() -> impl Strategy<Value = String> {
    let names = "comment|conntrack|state|mark|connmark|tcp|udp|icmp|multiport|addrtype|iprange|set";
    names.prop_map(|name| name)
}

fn expr() -> impl Strategy<Value = Expr> {
    let one = prop_oneof![
        4 => load(),
        1 => bytes().prop_map(Expr::Mask),
        3 => (0..8_u32, bytes()).prop_map(|(op, value)| Expr::Cmp { op, value }),
        1 => (bytes(), bytes()).prop_map(|(mask, bits)| Expr::Others(Others::Flip { mask, bits })),
        1 => any::<usize>().prop_map(|size| Expr::Others(Others::Swap(size))),
        1 => (bytes(), bytes(), any::<bool>()).prop_map(|(from, to, inverted)| {
            Expr::Others(Others::Range { from, to, inverted })
        }),
        1 => any::<bool>().prop_map(|inverted| {
            let set = "s".to_owned();
            Expr::Others(Others::Lookup { set, inverted })
        }),
        1 => Just(Expr::Others(Others::VerdictMap("s".into()))),
        2 => (name_of_match(), 0..5_u32, bytes()).prop_map(|(name, revision, info)| {
            Expr::Others(Others::Match { name, revision, info })
        }),
        1 => "[A-Z]{0,3}".prop_map(Expr::Target),
        1 => "[a-z]{0,3}".prop_map(Expr::Other),
        1 => prop_oneof![
            Just(Verdict::Accept),
            Just(Verdict::Drop),
            Just(jump("c")),
            Just(Verdict::Goto("d".into())),
            any::<u32>().prop_map(Verdict::Other),
        ]
        .prop_map(Expr::Verdict),
    ];
    (one, 0..40_u32).prop_map(|(expr, register)| {
        if register < 24 {
            Expr::Others(Others::On(register, Box::new(expr)))
        } else {
            expr
        }
    })
}

proptest! {
    /// Whatever rules say, following them ends.
    #[test]
    fn nothing_that_rules_say_is_too_odd(
        drops in any::<bool>(),
        rules in vec(vec(expr(), 0..6), 0..4),
        others in vec(vec(expr(), 0..6), 0..4),
        elements in vec((bytes(), bytes()), 0..4),
    ) {
        let elements: Vec<(&[u8], &[u8], Option<Verdict>)> = elements
            .iter()
            .map(|(from, to)| (&from[..], &to[..], Some(Verdict::Accept)))
            .collect();
        let sets = sets("s", &elements);
        judged_with(&sets, drops, &[("c", rules), ("d", others)]);
    }
}
