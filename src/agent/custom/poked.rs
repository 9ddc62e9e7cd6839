//! A source that may block for as long as it likes, on a thread of its own: it is asked with every sample, and the sample
//! does not wait for it.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::model::{Measured, Missing, Reason};

/// How many questions an answer may be late before it counts no more.
const LATE: u64 = 1;

#[derive(Debug)]
struct Slot<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    asked: u64,
    /// The question the answer is to.
    answered: u64,
    answer: Option<Measured<T>>,
}

impl<T> Slot<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        // What a source that panicked left is whole: it is put in at once.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The asking end. The thread ends after this is dropped, or never when it is stuck.
#[derive(Debug)]
pub(in crate::agent) struct Poked<T> {
    source: String,
    poke: SyncSender<()>,
    slot: Arc<Slot<T>>,
}

impl<T: Clone + Send + 'static> Poked<T> {
    /// Looks with `look` each time it is asked; `source` is what is looked at.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(super) fn start(source: &str, mut look: impl FnMut() -> Measured<T> + Send + 'static) -> Measured<Self> {
        let (poke, poked) = sync_channel::<()>(1);
        let slot = Arc::new(Slot {
            state: Mutex::new(State {
                asked: 0,
                answered: 0,
                answer: None,
            }),
            changed: Condvar::new(),
        });
        let answers = Arc::clone(&slot);
        let run = move || {
            while poked.recv().is_ok() {
                let asked = answers.state().asked;
                let answer = look();
                let mut state = answers.state();
                state.answered = asked;
                state.answer = Some(answer);
                answers.changed.notify_all();
            }
        };
        std::thread::Builder::new()
            .name("custom-metric".to_owned())
            .spawn(run)
            .map_err(|error| Missing::from_io(source, &error))?;
        Ok(Self {
            source: source.to_owned(),
            poke,
            slot,
        })
    }

    /// Asks. Never waits: one that has not answered the last question will be asked by that.
    pub(super) fn ask(&self) {
        self.slot.state().asked += 1;
        let _ = self.poke.try_send(());
    }

    /// The answer, waiting at most `patience` for it, and not at all for one that was late before; a late answer counts
    /// until the next question is late too.
    ///
    /// # Errors
    /// The source says why there is none, or says nothing.
    pub(super) fn answer(&self, patience: Duration) -> Measured<T> {
        let state = self.slot.state();
        let late = |state: &State<T>| state.asked - state.answered;
        let state = if late(&state) > LATE {
            state
        } else {
            let waiting = self
                .slot
                .changed
                .wait_timeout_while(state, patience, |state| late(state) > 0);
            waiting.unwrap_or_else(PoisonError::into_inner).0
        };
        match &state.answer {
            Some(answer) if late(&state) <= LATE => answer.clone(),
            _ => Err(Missing::new(&self.source, Reason::Absent, "does not answer")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn each_question_is_answered_anew() {
        let mut count = 0;
        let poked = Poked::start("test", move || {
            count += 1;
            Ok(count)
        })
        .unwrap();
        for expected in 1..=3 {
            poked.ask();
            assert_eq!(poked.answer(PATIENCE), Ok(expected));
        }
    }

    #[test]
    fn one_that_hangs_counts_once_more_and_then_is_named_and_not_waited_for() {
        let (go, gate) = channel::<u32>();
        let poked = Poked::start("/mnt/gone", move || {
            gate.recv().map_err(|_| Missing::new("test", Reason::Absent, "over"))
        })
        .unwrap();
        poked.ask();
        go.send(7).unwrap();
        assert_eq!(poked.answer(PATIENCE), Ok(7));
        // It hangs from here on.
        poked.ask();
        assert_eq!(poked.answer(Duration::ZERO), Ok(7), "late once");
        poked.ask();
        // A wait would be noticed: nobody lets the source go on within it.
        let missing = poked.answer(Duration::from_secs(3600)).unwrap_err();
        assert_eq!(missing.to_string(), "/mnt/gone absent: does not answer");
        // It answers again: the question it was asked meanwhile comes first.
        go.send(8).unwrap();
        go.send(9).unwrap();
        poked.ask();
        go.send(9).unwrap();
        let mut answer = poked.answer(PATIENCE);
        while answer != Ok(9) {
            poked.ask();
            let _ = go.send(9);
            answer = poked.answer(PATIENCE);
        }
    }
}
