//! What becomes of a forwarded packet in the chains that Docker, firewalld and people make.

use super::super::ruleset::Base;
use super::*;

const VPC: &str = "10.0.0.0/16";

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

fn established() -> Rule {
    let (op, value) = (CmpOps::Neq as u32, vec![0; 4]);
    vec![
        Expr::Other("ct".into()),
        Expr::Mask(vec![6, 0, 0, 0]),
        Expr::Cmp { op, value },
    ]
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
    let sources = [VPC.parse().unwrap()];
    follow(&Packet {
        interface: "ens5",
        index: 2,
        sources: &sources,
    })
}

fn dropped(drops: bool, chains: &[(&str, Vec<Rule>)]) -> String {
    let table = table("filter", HOOK_FORWARD, drops, chains);
    with_packet(|packet| droppers([&table].into_iter(), packet).join(", "))
}

fn masked(chains: &[(&str, Vec<Rule>)]) -> bool {
    let table = table("nat", HOOK_POSTROUTING, false, chains);
    with_packet(|packet| !maskers([&table].into_iter(), packet).is_empty())
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
    let forward = vec![
        verdict(&[], jump("DOCKER-USER")),
        verdict(
            &[interface(MetaKeys::Oifname, CmpOps::Eq, b"docker0\0")],
            jump("DOCKER"),
        ),
        verdict(&[comes_in_by(b"docker0\0")], Verdict::Accept),
    ];
    let user = |rules: Vec<Rule>| {
        dropped(
            true,
            &[("FORWARD", forward.clone()), ("DOCKER-USER", rules)],
        )
    };
    assert!(user(vec![verdict(&[], Verdict::Return)]).contains("policy drop"));
    assert_eq!(
        user(vec![verdict(&[comes_in_by(b"ens5\0")], Verdict::Accept)]),
        ""
    );
    assert_eq!(
        user(vec![verdict(&[comes_from(&[10, 0])], Verdict::Accept)]),
        ""
    );
    assert!(user(vec![verdict(&[comes_from(&[10, 1])], Verdict::Accept)]).contains("policy drop"));
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
    let accept = verdict(
        &[interface(MetaKeys::Oifname, CmpOps::Eq, b"ens5\0")],
        Verdict::Accept,
    );
    assert_eq!(zones(vec![accept]), "");
}

#[test]
fn conditions_that_are_not_known_decide_nothing() {
    let both = [comes_in_by(b"ens5\0"), established()];
    let masquerade = Expr::Masquerade { flags: 0 };
    assert!(
        masked(&[("c", vec![rule(&both, masquerade)])]),
        "not taken for a name"
    );
    assert_eq!(
        dropped(
            false,
            &[("c", vec![verdict(&[established()], Verdict::Drop)])]
        ),
        ""
    );
    assert!(
        dropped(
            true,
            &[("c", vec![verdict(&[established()], Verdict::Accept)])]
        )
        .contains("policy")
    );
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
