use std::thread;

use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::firewall::{Holding, Isolated, Lan, Posture};
use crate::model::MacAddress;

const NOW: UnixTime = UnixTime(1_800_000_000_000);

/// Runs in a network namespace of its own. Needs root.
fn alone(job: impl FnOnce() + Send + 'static) {
    let job = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: run the tests as root");
        job();
    };
    if let Err(panic) = thread::spawn(job).join() {
        std::panic::resume_unwind(panic);
    }
}

fn device(n: u8) -> Isolated {
    Isolated {
        label: format!("thing-{n}"),
        macs: [MacAddress([2, 0, 0, 0, 0, n])].into(),
        v4: [[10, 0, 0, n].into()].into(),
        v6: BTreeSet::new(),
        posture: Posture::Isolate,
        until: None,
    }
}

fn policy(devices: impl IntoIterator<Item = u8>) -> Policy {
    Policy {
        lan: Lan {
            bridges: ["br0".to_owned()].into(),
            ..Lan::default()
        },
        isolated: devices.into_iter().map(device).collect(),
        quiet_ports: None,
    }
}

fn holding(firewall: &mut NftablesFirewall, n: u8) -> Holding {
    let held = firewall.enforced().unwrap();
    held.map_or(Holding::Absent, |held| held.holds(&device(n)))
}

#[test]
fn answers_that_were_lost_lead_to_everything_being_written_anew() {
    alone(|| {
        let mut firewall = NftablesFirewall::open(TableOwnership::Off).unwrap();
        firewall.enforce(&policy(1..=200), NOW).unwrap();
        assert_eq!(holding(&mut firewall, 200), Holding::Whole);
        // Somebody removes the table: every message of the next change is refused, and each refusal answered with a
        // copy of the message, for which there is no room.
        let delete = encode::batch(vec![encode::delete_table(Family::Bridge, TABLE)]);
        let mut other = Socket::open(Protocol::Netfilter).unwrap();
        other.transact("delete", &delete).unwrap();
        firewall.netlink.starve();
        let wanted = build::tables(&policy(1..=100), NOW);
        let lost = firewall.step(&wanted, NOW).unwrap().unwrap_err();
        let NetlinkError::Transport { source, .. } = &lost else {
            panic!("{lost:?}");
        };
        assert_eq!(source.raw_os_error(), Some(libc::ENOBUFS));
        firewall.enforce(&policy(1..=100), NOW).unwrap();
        assert_eq!(holding(&mut firewall, 100), Holding::Whole);
        assert_eq!(holding(&mut firewall, 101), Holding::Absent);
    });
}

#[test]
fn a_kernel_that_does_not_answer_leaves_what_was_enforced_and_is_said() {
    alone(|| {
        let mut firewall = NftablesFirewall::open(TableOwnership::Off).unwrap();
        firewall.enforce(&policy(1..=2), NOW).unwrap();
        let nobody = Socket::open(Protocol::Route).unwrap();
        let working = std::mem::replace(&mut firewall.netlink, nobody);
        firewall.enforce(&policy(1..=3), NOW).unwrap_err();
        firewall.enforced().unwrap_err();
        firewall.dropped().unwrap_err();
        firewall.netlink = working;
        let held = firewall.enforced().unwrap().unwrap();
        assert_eq!(held.macs.len(), 2, "what was enforced before still is");
        assert!(!held.differences.is_empty(), "and is not trusted");
        firewall.enforce(&policy(1..=3), NOW).unwrap();
        assert_eq!(holding(&mut firewall, 3), Holding::Whole);
    });
}
