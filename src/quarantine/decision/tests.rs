use super::*;
use crate::quarantine::CauseKey;

fn thing(name: &str) -> ThingName {
    name.parse().unwrap()
}

fn mac(last: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, last])
}

fn identity(macs: &[u8], addresses: &[&str]) -> Identity {
    Identity {
        macs: macs.iter().map(|last| mac(*last)).collect(),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        ..Identity::default()
    }
}

fn rails() -> Rails {
    Rails {
        own_macs: [mac(0xfe)].into(),
        own_addresses: ["10.0.0.1".parse().unwrap()].into(),
        gateway_macs: [mac(0xfd)].into(),
        gateway_addresses: ["192.168.1.1".parse().unwrap()].into(),
        dns_servers: ["10.0.0.53".parse().unwrap()].into(),
        protected: vec![
            Protected::Mac(mac(0xfc)),
            Protected::Thing(thing("plc")),
            Protected::Network {
                address: "10.0.0.128".parse().unwrap(),
                prefix: 25,
            },
        ],
        core: Some(thing("core")),
    }
}

fn verdict(name: &str, identities: &[(&str, Identity)], bound: &[u8]) -> Verdict {
    verdict_of_held(name, identities, bound, &[])
}

fn verdict_of_held(name: &str, identities: &[(&str, Identity)], macs: &[u8], addresses: &[&str]) -> Verdict {
    let cause = Cause {
        posture: Posture::Isolate,
        since: UnixTime(1),
        until: None,
        reason: None,
        who: None,
        violation_id: None,
        release_when_cleared: false,
    };
    let causes = [(thing(name), [(CauseKey::Operator, cause)].into())].into();
    let identities = identities.iter().map(|(n, i)| (thing(n), i.clone())).collect();
    let hold = Hold {
        macs: macs.iter().map(|last| mac(*last)).collect(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
    };
    let bound = [(thing(name), hold)].into();
    decide(&causes, &identities, &rails(), &bound)
        .remove(&thing(name))
        .unwrap()
}

fn cut(verdict: Verdict) -> (Vec<MacAddress>, Vec<IpAddr>) {
    match verdict {
        Verdict::Cut(subject) => (
            subject.macs.into_iter().collect(),
            subject.addresses.into_iter().collect(),
        ),
        Verdict::Refused(why) => panic!("{why}"),
    }
}

#[test]
fn every_forbidden_target_is_refused_with_its_reason() {
    for (name, macs, addresses, words) in [
        ("core", &[1][..], &[][..], "not supported"),
        ("plc", &[1], &[], "plc is listed"),
        ("a", &[0xfe], &[], "the gateway itself"),
        ("a", &[1, 0xfd], &[], "uplink router"),
        ("a", &[0xfc], &[], "is listed in quarantine.protected"),
        ("a", &[1], &["10.0.0.1"], "the gateway itself"),
        ("a", &[1], &["::ffff:10.0.0.1"], "the gateway itself"),
        ("a", &[1], &["192.168.1.1"], "uplink router"),
        ("a", &[1], &["10.0.0.7", "10.0.0.53"], "DNS server"),
        ("a", &[1], &["10.0.0.200"], "in quarantine.protected"),
        ("a", &[], &[], "no device is known"),
    ] {
        let Verdict::Refused(refusal) = verdict(name, &[(name, identity(macs, addresses))], &[]) else {
            panic!("{name} {macs:?} {addresses:?} was cut");
        };
        assert!(refusal.to_string().contains(words), "{refusal}");
    }
    let group = Identity {
        macs: [MacAddress([0xff; 6])].into(),
        ..Identity::default()
    };
    assert!(matches!(
        verdict("a", &[("a", group)], &[]),
        Verdict::Refused(Refusal::Rail(_))
    ));
}

#[test]
fn a_conflict_cuts_nobody_new() {
    let conflict = Identity {
        in_conflict: true,
        ..identity(&[1], &["10.0.0.7"])
    };
    assert_eq!(
        verdict("a", &[("a", conflict)], &[]),
        Verdict::Refused(Refusal::IdentityConflict)
    );
    // it claims the MAC address that the configuration gives to another
    let owner = Identity {
        configured: true,
        ..identity(&[1], &[])
    };
    assert_eq!(
        verdict("a", &[("a", identity(&[1], &[])), ("b", owner)], &[]),
        Verdict::Refused(Refusal::IdentityConflict)
    );
}

#[test]
fn what_is_held_stays_held_whatever_it_claims() {
    let claims = identity(&[1], &["10.0.0.7", "10.0.0.53", "10.0.0.200"]);
    assert_eq!(
        cut(verdict("a", &[("a", claims)], &[1])),
        (vec![mac(1)], vec!["10.0.0.7".parse().unwrap()])
    );
    let conflict = Identity {
        in_conflict: true,
        ..identity(&[1, 9], &["10.0.0.9"])
    };
    assert_eq!(cut(verdict("a", &[("a", conflict)], &[1])), (vec![mac(1)], vec![]));
    assert_eq!(
        cut(verdict("a", &[], &[1])),
        (vec![mac(1)], vec![]),
        "nobody knows it any more"
    );
    // a new MAC address is cut too, and the old one stays
    let moved = identity(&[2, 0xfe], &[]);
    assert_eq!(cut(verdict("a", &[("a", moved)], &[1])), (vec![mac(1), mac(2)], vec![]));
    // another thing's lease says otherwise: no proof
    assert_eq!(
        cut(verdict("a", &[("b", identity(&[1], &[]))], &[1])),
        (vec![mac(1)], vec![])
    );
    // the configuration says otherwise: it counts
    let owner = Identity {
        configured: true,
        ..identity(&[1], &[])
    };
    assert_eq!(
        verdict("a", &[("b", owner)], &[1]),
        Verdict::Refused(Refusal::UnknownDevice)
    );
    // no rail gives way to what was held
    assert!(matches!(
        verdict("a", &[("a", identity(&[0xfe], &[]))], &[0xfe]),
        Verdict::Refused(_)
    ));
}

#[test]
fn who_is_released_stays_cut_off_until_that_is_on_disk() {
    let subject = |posture, until: Option<u64>| {
        Verdict::Cut(Subject {
            macs: [mac(1)].into(),
            addresses: BTreeSet::new(),
            learnt: BTreeSet::new(),
            posture,
            until: until.map(UnixTime),
        })
    };
    let (isolate, remediate) = (Posture::Isolate, Posture::Remediate);
    let held = |after: Option<Verdict>, before: Option<Verdict>| {
        let name = thing("a");
        let decision = |verdict: Option<Verdict>| verdict.map(|verdict| (name.clone(), verdict)).into_iter().collect();
        let (mut after, before): (Decision, Decision) = (decision(after), decision(before));
        held_until_kept(&mut after, &before, &[name.clone()].into());
        after.remove(&name)
    };
    let whole = subject(isolate, None);
    for weaker in [
        None,
        Some(Verdict::Refused(Refusal::UnknownDevice)),
        Some(subject(remediate, None)),
        Some(subject(isolate, Some(9))),
    ] {
        assert_eq!(held(weaker, Some(whole.clone())), Some(whole.clone()));
    }
    // what is as strict or stricter takes effect at once, and nobody is cut off who was not
    assert_eq!(
        held(Some(whole.clone()), Some(subject(remediate, Some(9)))),
        Some(whole.clone())
    );
    assert_eq!(held(None, None), None);
    assert_eq!(held(None, Some(Verdict::Refused(Refusal::Core))), None);
}

#[test]
fn the_number_of_addresses_held_is_bounded_and_the_present_ones_come_first() {
    let held: Vec<u8> = (100..180).collect();
    let (macs, _) = cut(verdict("a", &[("a", identity(&[200], &[]))], &held));
    assert_eq!(macs.len(), MOST_MACS);
    assert!(macs.contains(&mac(200)));
}

/// The addresses that `a`, cut off with MAC address 1 under `held`, is cut off by, and those of them to remember.
fn addresses(identities: &[(&str, Identity)], held: &[&str]) -> (Vec<String>, Vec<String>) {
    match verdict_of_held("a", identities, &[1], held) {
        Verdict::Cut(subject) => (
            subject.addresses.iter().map(ToString::to_string).collect(),
            subject.learnt.iter().map(ToString::to_string).collect(),
        ),
        Verdict::Refused(why) => panic!("{why}"),
    }
}

fn learnt(identities: &[(&str, Identity)], held: &[&str]) -> Vec<String> {
    let (addresses, learnt) = addresses(identities, held);
    assert_eq!(addresses, learnt, "all of them are learnt");
    learnt
}

const HELD: [&str; 3] = ["10.0.0.7", "fd00::7", "fe80::7"];

#[test]
fn addresses_it_was_cut_off_under_stay_while_nothing_newer_is_known() {
    // a restart with an empty neighbour table: nobody knows it, or its MAC address only (as configured)
    assert_eq!(learnt(&[], &HELD), HELD);
    assert_eq!(learnt(&[("a", identity(&[1], &[]))], &HELD), HELD);
    // its sources contradict each other, as when a new MAC address takes its hostname
    let doubtful = Identity {
        in_conflict: true,
        ..identity(&[1], &["10.0.0.9"])
    };
    assert_eq!(learnt(&[("a", doubtful)], &HELD), HELD);
    // a device nobody names claims one of them: the evasion itself. Others of the kind it still has change nothing.
    let claimed = Identity {
        contested: ["10.0.0.7".parse().unwrap()].into(),
        ..identity(&[1], &["10.0.0.8"])
    };
    assert_eq!(
        learnt(&[("a", claimed)], &HELD),
        ["10.0.0.7", "10.0.0.8", "fd00::7", "fe80::7"]
    );
}

#[test]
fn addresses_it_has_moved_on_from_are_given_up_by_kind() {
    let renewed = ("a", identity(&[1], &["10.0.0.8"]));
    assert_eq!(learnt(&[renewed], &HELD), ["10.0.0.8", "fd00::7", "fe80::7"]);
    let another_prefix = ("a", identity(&[1], &["fd00:1::7"]));
    assert_eq!(learnt(&[another_prefix], &HELD), ["10.0.0.7", "fd00:1::7", "fe80::7"]);
    let another_link_local = ("a", identity(&[1], &["fe80::8"]));
    assert_eq!(learnt(&[another_link_local], &HELD), ["10.0.0.7", "fd00::7", "fe80::8"]);
}

#[test]
fn an_address_another_thing_has_or_claims_is_given_up() {
    let a = || ("a", identity(&[1], &[]));
    assert_eq!(
        learnt(&[a(), ("b", identity(&[2], &["10.0.0.7"]))], &HELD),
        ["fd00::7", "fe80::7"],
        "by lease or neighbour table"
    );
    // both claim it: a rogue that claims a victim's address must not get the victim cut off
    let claims = |macs: &[u8]| Identity {
        contested: ["10.0.0.7".parse().unwrap()].into(),
        ..identity(macs, &[])
    };
    assert_eq!(
        learnt(&[("a", claims(&[1])), ("b", claims(&[2]))], &HELD),
        ["fd00::7", "fe80::7"]
    );
    // the configuration gives it to another thing that was never seen
    let fixed = Identity {
        fixed: ["fd00::7".parse().unwrap()].into(),
        configured: true,
        ..identity(&[3], &["fd00::7"])
    };
    assert_eq!(learnt(&[a(), ("b", fixed)], &HELD), ["10.0.0.7", "fe80::7"]);
    // what the configuration gives itself stays, whoever claims it, and need not be remembered
    let fixed = Identity {
        fixed: ["10.0.0.7".parse().unwrap()].into(),
        configured: true,
        ..identity(&[1], &["10.0.0.7"])
    };
    let (cut, remembered) = addresses(&[("a", fixed), ("b", claims(&[2]))], &HELD);
    assert_eq!(cut, HELD);
    assert_eq!(remembered, ["fd00::7", "fe80::7"]);
}

#[test]
fn no_rail_gives_way_to_an_address_held_by_memory() {
    let held = ["10.0.0.1", "10.0.0.7", "10.0.0.53", "10.0.0.200", "192.168.1.1"];
    assert_eq!(learnt(&[], &held), ["10.0.0.7"]);
}

#[test]
fn the_number_of_ip_addresses_held_is_bounded() {
    let many: Vec<String> = (0..100).map(|n| format!("fd00::{n:x}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(learnt(&[], &many).len(), MOST_LEARNT);
    let present = learnt(&[("a", identity(&[1], &["10.0.0.7"]))], &many);
    assert_eq!(present.len(), MOST_LEARNT);
    assert!(present.contains(&"10.0.0.7".to_owned()), "the present ones come first");
}
