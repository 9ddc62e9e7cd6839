//! What leaks while links come and go: a device that sends all the time, and when what got through was sent.

use std::time::{Duration, Instant};

use edge_warden::firewall::{
    Change, Feature, Firewall, Isolated, Lack, LinkWatch, NftablesFirewall, Policy, Posture, TableOwnership,
};
use edge_warden::model::UnixTime;
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::json;

use crate::line;
use crate::support::site::{Options, Site};
use crate::support::warden::{Arrivals, Guarded, Restless, now};

const ROUNDS: usize = 100;

pub(crate) fn links() {
    for ownership in ["auto", "off"] {
        let port = |command: &'static str| move |guarded: &Guarded| drop(guarded.site.gateway().shell(command));
        through_the_agent(
            "bridge port taken out and put back",
            ownership,
            0,
            port("ip link set lan0 nomaster; ip link set lan0 master br0"),
        );
        through_the_agent("bridge port deleted and made anew", ownership, 0, |guarded| {
            guarded.site.connect_port(0);
        });
        through_the_agent("plain interface deleted and made anew", ownership, 3, |guarded| {
            guarded.site.connect_port(3);
        });
    }
    without_hooks_by_name();
}

/// The gap is from the sending of the first packet that passed to that of the last.
fn through_the_agent(what: &str, ownership: &str, n: usize, damage: impl Fn(&Guarded)) {
    let guarded = Guarded::start(&json!({"tableOwnership": ownership}));
    let site = &guarded.site;
    let restless = Restless::start(site, n, 2000);
    let places = places(site, n);
    // Positive control: what is done to the link is no cut.
    damage(&guarded);
    places.iter().for_each(|place| place.await_more(50));
    let thing = format!("cam-{n}");
    guarded.desire(&thing, None, &json!({"quarantine": true}));
    guarded.await_enforced(&thing, None, &json!(true));
    for place in places.iter() {
        place.await_silence();
    }
    let (mut passed, mut gaps) = (0, Vec::new());
    let rounds = crate::runs(ROUNDS);
    for _ in 0..rounds {
        let start = now();
        damage(&guarded);
        restless.await_sent(300);
        let (count, gap) = leaked(&places, start);
        passed += count;
        gaps.push(gap);
    }
    println!("{what}, tableOwnership {ownership}: {passed} packets passed in {rounds} rounds");
    line("gap", gaps);
}

fn places(site: &Site, n: usize) -> Vec<Arrivals> {
    let mut places = vec![Arrivals::on_internet(site)];
    if n != 3 {
        places.push(Arrivals::on_lan(site.device(1), site.device(n)));
    }
    places
}

fn leaked(places: &[Arrivals], start: Instant) -> (usize, Duration) {
    for place in places.iter() {
        place.await_silence();
    }
    let mut times: Vec<Instant> = places.iter().flat_map(|place| place.since(start)).collect();
    times.sort();
    let ends = times.last().zip(times.first());
    let gap = ends.map(|(last, first)| last.duration_since(*first));
    (times.len(), gap.unwrap_or_default())
}

/// What the agent can do on a kernel that forgets the hook of an interface that goes (before 6.16): hear that it is back
/// and write the rules again. Here without the agent's other work.
fn without_hooks_by_name() {
    const NOW: UnixTime = UnixTime(1_800_000_000_000);
    let site = Site::build(Options::default());
    let device = site.device(3);
    let lack = Lack {
        feature: Feature::HooksByName,
        consequence: Feature::HooksByName.consequence(),
        answer: String::new(),
    };
    let (mut firewall, mut watch) = site.gateway().enter(|| {
        let firewall = NftablesFirewall::open_on(TableOwnership::Auto, vec![lack]);
        (firewall.unwrap(), LinkWatch::open().unwrap())
    });
    let cut = Policy {
        lan: site.lan(),
        isolated: vec![Isolated {
            label: "cam-3".to_owned(),
            macs: [device.mac].into(),
            v4: [device.v4].into(),
            v6: [device.v6].into(),
            posture: Posture::Isolate,
            until: None,
        }],
        quiet_ports: None,
    };
    let restless = Restless::start(&site, 3, 2000);
    let places = places(&site, 3);
    places.iter().for_each(|place| place.await_more(50));
    firewall.enforce(&cut, NOW).unwrap();
    let back = Change::LinkPresent("lan3".to_owned());
    let (mut passed, mut gaps) = (0, Vec::new());
    let rounds = crate::runs(ROUNDS);
    for _ in 0..rounds {
        site.gateway().shell("ip link del lan3");
        firewall.distrust();
        firewall.enforce(&cut, NOW).unwrap();
        while watch.read().unwrap().more {}
        let start = now();
        std::thread::scope(|scope| {
            scope.spawn(|| site.connect_port(3));
            let mut changes = Vec::new();
            while !changes.contains(&back) {
                poll(&mut [PollFd::new(&watch, PollFlags::IN)], None).unwrap();
                changes = watch.read().unwrap().changes;
            }
            firewall.distrust();
            firewall.enforce(&cut, NOW).unwrap();
        });
        restless.await_sent(300);
        let (count, gap) = leaked(&places, start);
        passed += count;
        gaps.push(gap);
    }
    println!("plain interface made anew, hooks not by name: {passed} packets passed in {rounds} rounds");
    line("gap", gaps);
}
