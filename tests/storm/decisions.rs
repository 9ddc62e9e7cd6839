//! What the agent has acknowledged, and whether it still holds to it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use edge_warden::control::{Request, ask};
use serde_json::{Value, json};

use super::schedule::Chance;
use crate::support::nucleus::TestNucleus;

/// Things the operator cuts off and releases, and things whose named shadow does.
pub const EACH: usize = 12;
/// The named shadow.
pub const SHADOW: &str = "quarantine";

pub fn by_operator(n: usize) -> String {
    format!("op-{n}")
}

pub fn by_shadow(n: usize) -> String {
    format!("sh-{n}")
}

/// What was said of one thing, and whether it was acknowledged.
#[derive(Debug, Clone, Copy, Default)]
struct Said {
    quarantine: bool,
    acknowledged: bool,
}

/// Everything said so far, and how often.
#[derive(Debug, Default)]
pub struct Ledger {
    operator: BTreeMap<String, Said>,
    shadow: BTreeMap<String, Said>,
    pub acknowledged: u64,
    pub unanswered: u64,
}

impl Ledger {
    /// Every acknowledged decision the agent does not hold to, by its own list.
    pub fn lost(&self, list: &Value) -> Vec<String> {
        let has = |thing: &str, cause: &str| {
            let things = list.as_array().into_iter().flatten();
            let causes = things
                .filter(|row| row["thing"] == thing)
                .flat_map(|row| row["causes"].as_array());
            causes.flatten().any(|row| row["cause"] == cause)
        };
        let kinds = [(&self.operator, "operator"), (&self.shadow, "shadow:quarantine")];
        let all = kinds
            .into_iter()
            .flat_map(|(said, cause)| said.iter().map(move |(thing, said)| (thing, said, cause)));
        let lost = all.filter(|(thing, said, cause)| said.acknowledged && has(thing, cause) != said.quarantine);
        lost.map(|(thing, said, cause)| format!("{thing}: {cause} said and acknowledged: {said:?}"))
            .collect()
    }

    /// What the cloud asked for and was not yet said to be so.
    pub fn waiting(&self) -> Vec<String> {
        let waiting = self.shadow.iter().filter(|(_, said)| !said.acknowledged);
        waiting.map(|(thing, said)| format!("{thing}: {said:?}")).collect()
    }

    /// Take in what the shadows report by now.
    pub fn read_shadows(&mut self, nucleus: &TestNucleus) {
        for (thing, said) in self.shadow.iter_mut().filter(|(_, said)| !said.acknowledged) {
            let document = nucleus.shadow(thing, Some(SHADOW)).unwrap_or_default();
            let reported = &document["state"]["reported"];
            said.acknowledged = reported["quarantine"] == said.quarantine
                && (reported["quarantineStatus"]["enforced"] == said.quarantine);
            self.acknowledged += u64::from(said.acknowledged);
        }
    }
}

/// Somebody who keeps cutting off and releasing, in both ways.
pub struct Churn {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Churn {
    pub fn start(ledger: &Arc<Mutex<Ledger>>, nucleus: &Arc<TestNucleus>, socket: PathBuf, mut chance: Chance) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, ledger, nucleus) = (Arc::clone(&stop), Arc::clone(ledger), Arc::clone(nucleus));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let n = usize::try_from(chance.below(EACH as u64)).expect("an index");
                let quarantine = chance.below(2) == 0;
                if chance.below(4) == 0 {
                    demand(&ledger, &nucleus, n);
                } else {
                    decide(&ledger, &socket, n, quarantine);
                }
                // paces the load, nothing waits for it
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The operator's word. Until the agent has answered, either may be so.
fn decide(ledger: &Mutex<Ledger>, socket: &std::path::Path, n: usize, quarantine: bool) {
    let name = by_operator(n);
    let thing = name.parse().expect("a thing name");
    let request = if quarantine {
        Request::QuarantineAdd {
            thing,
            posture: None,
            until: None,
            reason: Some("storm".to_owned()),
        }
    } else {
        Request::QuarantineRelease { thing }
    };
    let said = |acknowledged| Said {
        quarantine,
        acknowledged,
    };
    ledger
        .lock()
        .expect("the ledger")
        .operator
        .insert(name.clone(), said(false));
    let answer = ask(socket, &request);
    let mut ledger = ledger.lock().expect("the ledger");
    match answer {
        Ok(_) => {
            ledger.operator.insert(name, said(true));
            ledger.acknowledged += 1;
        }
        Err(_) => ledger.unanswered += 1,
    }
}

/// The cloud's word: the opposite of what is so. (What was not acknowledged yet stands: the report of what was so before
/// must not be taken for the acknowledgement.)
fn demand(ledger: &Mutex<Ledger>, nucleus: &TestNucleus, n: usize) {
    let name = by_shadow(n);
    let mut ledger = ledger.lock().expect("the ledger");
    let before = ledger.shadow.get(&name).copied().unwrap_or(Said {
        quarantine: false,
        acknowledged: true,
    });
    if before.acknowledged {
        let quarantine = !before.quarantine;
        let document = json!({"state": {"desired": {"quarantine": quarantine}}});
        nucleus.shadow_update(&name, Some(SHADOW), &document).expect("a shadow");
        let acknowledged = false;
        ledger.shadow.insert(
            name,
            Said {
                quarantine,
                acknowledged,
            },
        );
    }
}
