//! Which faults come when: the same seed gives the same schedule. How the machine carries it out is chance all the same.

use std::time::Duration;

/// A source of numbers that looks random and repeats itself (xorshift64*).
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        // the state must not be 0, and neighbouring seeds are to begin differently
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        (self.word() >> 16) % limit.max(1)
    }

    pub fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let span = u64::try_from((most - least).as_micros()).expect("seconds");
        least + Duration::from_micros(self.below(span + 1))
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.word() as u8).collect()
    }

    /// A word for something that makes its own choices.
    pub fn fork(&mut self) -> Self {
        Self::new(self.word())
    }
}

/// What can happen to the agent and to the gateway it runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// `kill -9`.
    Kill,
    /// `kill -9` somewhere in the start of the next one.
    KillStarting,
    /// SIGTERM.
    Terminate,
    /// SIGSTOP, and SIGCONT after a while.
    Stall,
    /// The file system with the state has no free block.
    DiskFull,
    /// The wall clock is set ahead or back by up to eight years.
    WallJump,
    /// The machine slept: the boot clock and the wall clock are ahead, others are not.
    Suspend,
    /// A bridge port, the plain interface, the bridge, the uplink: down and up.
    PortFlap,
    PlainFlap,
    BridgeFlap,
    UplinkFlap,
    /// A bridge port taken out of its bridge and put back.
    PortOut,
    /// A bridge port, and the plain interface, deleted and made anew.
    PortAnew,
    PlainAnew,
    /// Somebody's `nft flush ruleset`.
    Flush,
    /// Somebody deletes our tables.
    DeleteTables,
    /// Another process owns our tables when the agent starts.
    ForeignHolder,
    /// 20,000 random MAC addresses a second behind a bridge port.
    RandomMacs,
    /// As many connections as the kernel's table takes.
    ConntrackFull,
    /// The nucleus sends what no client should get.
    GarbageFromNucleus,
    /// The nucleus closes the connection.
    Disconnect,
    /// The nucleus forgets every subscription without a word.
    DeadSubscriptions,
    /// The nucleus refuses, delays, loses, never answers, rejects.
    NucleusMisbehaves,
    /// Shadows that say what no shadow should.
    ShadowGarbage,
    /// Garbage on local topics and on those of AWS's answers.
    TopicGarbage,
    /// Garbage, half-open and stalled clients on the control socket.
    ControlGarbage,
    /// The lease file is garbage, huge, a folder, a FIFO, gone.
    LeaseGarbage,
    /// A deployment with an invalid configuration.
    ConfigurationGarbage,
}

use Fault::*;

impl Fault {
    pub const ALL: [Self; 28] = [
        Kill,
        KillStarting,
        Terminate,
        Stall,
        DiskFull,
        WallJump,
        Suspend,
        PortFlap,
        PlainFlap,
        BridgeFlap,
        UplinkFlap,
        PortOut,
        PortAnew,
        PlainAnew,
        Flush,
        DeleteTables,
        ForeignHolder,
        RandomMacs,
        ConntrackFull,
        GarbageFromNucleus,
        Disconnect,
        DeadSubscriptions,
        NucleusMisbehaves,
        ShadowGarbage,
        TopicGarbage,
        ControlGarbage,
        LeaseGarbage,
        ConfigurationGarbage,
    ];

    /// Those that one process lives through. (What breaks the connection to the nucleus ends the process: it needs a new
    /// token from the nucleus.)
    pub fn survivable(self) -> bool {
        !matches!(
            self,
            Kill | KillStarting | Terminate | ForeignHolder | GarbageFromNucleus | Disconnect
        )
    }

    /// At least and at most so many milliseconds.
    fn lasts(self) -> (u64, u64) {
        match self {
            Stall => (200, 1_500),
            DiskFull | ForeignHolder => (500, 2_500),
            PortFlap | PlainFlap | BridgeFlap | UplinkFlap | PortOut => (20, 500),
            RandomMacs => (1_000, 2_500),
            ConntrackFull => (500, 1_500),
            NucleusMisbehaves | LeaseGarbage | ConfigurationGarbage => (300, 2_000),
            ControlGarbage => (300, 1_000),
            _ => (0, 0),
        }
    }
}

/// One fault of a storm.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Since the storm began.
    pub at: Duration,
    pub fault: Fault,
    /// Until it is ended; zero when there is nothing to end.
    pub lasts: Duration,
    /// Decides what the fault leaves open.
    pub word: u64,
}

/// Faults for about `length`: each of `kinds` once in some order, then each once in another, and so on. The first round
/// is always whole.
pub fn schedule(chance: &mut Chance, length: Duration, kinds: &[Fault]) -> Vec<Step> {
    let (mut steps, mut at) = (Vec::new(), Duration::ZERO);
    while at < length {
        let first = steps.is_empty();
        let mut left = kinds.to_vec();
        while !left.is_empty() && (first || at < length) {
            let index = usize::try_from(chance.below(left.len() as u64)).expect("an index");
            let fault = left.swap_remove(index);
            let (least, most) = fault.lasts();
            let lasts = chance.between(Duration::from_millis(least), Duration::from_millis(most));
            let word = chance.word();
            steps.push(Step { at, fault, lasts, word });
            at += chance.between(Duration::from_millis(50), Duration::from_millis(450));
        }
    }
    steps
}
