//! The clocks of one process, the shipped binary as it is, set from outside while the machine's stay as they are.
//!
//! A program reads the clocks by `clock_gettime` of the vDSO, code the kernel maps into every process (vdso(7)). The
//! process gets its own copy of that page when it is written to; here the function is replaced by one that makes the system
//! call and adds an offset to CLOCK_REALTIME and one to CLOCK_BOOTTIME. Timers, and what the kernel stamps, are not moved:
//! as if somebody had set the clock. Only for x86-64, like the packaged binary these tests run.
//! A time namespace would move the boot clock only, and only between two processes; libfaketime needs a C library that
//! loads it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use edge_warden::agent::clock::{Clock as _, SystemClock};

/// `clock_gettime(edi: clock, rsi: result)` for x86-64, then the offsets of wall and boot clock in seconds.
const REPLACEMENT: [u8; 0x38] = [
    0xb8, 0xe4, 0x00, 0x00, 0x00, // mov eax, 228 (clock_gettime)
    0x0f, 0x05, // syscall
    0x85, 0xff, // test edi, edi (CLOCK_REALTIME)
    0x74, 0x06, // je wall
    0x83, 0xff, 0x07, // cmp edi, 7 (CLOCK_BOOTTIME)
    0x74, 0x0a, // je boot
    0xc3, // ret
    0x4c, 0x8b, 0x1d, 0x10, 0x00, 0x00, 0x00, // wall: mov r11, [rip + 0x10]
    0xeb, 0x07, // jmp add
    0x4c, 0x8b, 0x1d, 0x0f, 0x00, 0x00, 0x00, // boot: mov r11, [rip + 0x0f]
    0x4c, 0x01, 0x1e, // add: add [rsi], r11
    0xc3, // ret
    0x90, 0x90, 0x90, //
    0, 0, 0, 0, 0, 0, 0, 0, // the wall clock's offset
    0, 0, 0, 0, 0, 0, 0, 0, // the boot clock's offset
];
const WALL: u64 = 0x28;
const BOOT: u64 = 0x30;

/// How far ahead of the machine's clocks those of the agent's processes are, in seconds, and the time that is true for
/// them.
#[derive(Debug)]
pub struct Clock {
    factor: u32,
    wall: AtomicI64,
    boot: AtomicI64,
}

impl Clock {
    /// For agents run with `--accelerate factor`.
    pub fn new(factor: u32) -> Self {
        Self {
            factor,
            wall: AtomicI64::new(0),
            boot: AtomicI64::new(0),
        }
    }

    /// Epoch seconds on a clock as fast as the agent's that nobody set: AWS's, as an accelerated agent sees it.
    pub fn truth(&self) -> u64 {
        let boot = u64::try_from(self.boot.load(Ordering::SeqCst)).expect("ahead");
        SystemClock::accelerated(self.factor).wall().seconds() + boot * u64::from(self.factor)
    }

    /// Sets the wall clock ahead of the true time, or behind it; from the next [`Planted::turn`] on.
    pub fn set_wall(&self, ahead: i64) {
        self.wall
            .store(ahead + self.boot.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// The machine sleeps for so long: boot and wall clock have gone on when it wakes.
    pub fn sleep(&self, passed: Duration) {
        let seconds = i64::try_from(passed.as_secs()).expect("not long");
        self.boot.fetch_add(seconds, Ordering::SeqCst);
        self.wall.fetch_add(seconds, Ordering::SeqCst);
    }
}

/// Where a process's offsets are.
#[derive(Debug)]
pub struct Planted {
    memory: File,
    function: u64,
}

impl Planted {
    /// Replaces the function in a process that has just begun and stands still.
    pub fn plant(pid: u32, clock: &Clock) -> Self {
        #[cfg(not(target_arch = "x86_64"))]
        panic!("the clocks of a process are set on x86-64 only");
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("its memory");
        let line = maps.lines().find(|line| line.ends_with("[vdso]")).expect("a vDSO");
        let (range, _) = line.split_once(' ').expect("a range");
        let ends: Vec<u64> = range
            .split('-')
            .map(|end| u64::from_str_radix(end, 16).expect("hexadecimal"))
            .collect();
        let memory = File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/{pid}/mem"))
            .expect("its memory");
        let mut image = vec![0; usize::try_from(ends[1] - ends[0]).expect("two pages")];
        memory.read_exact_at(&mut image, ends[0]).expect("the vDSO");
        let (offset, size) = symbol(&image, b"__vdso_clock_gettime").expect("its clock_gettime");
        assert!(
            size >= REPLACEMENT.len() as u64,
            "room for the replacement: {size} bytes"
        );
        let planted = Self {
            memory,
            function: ends[0] + offset,
        };
        planted
            .memory
            .write_all_at(&REPLACEMENT, planted.function)
            .expect("the replacement");
        planted.turn(clock);
        planted
    }

    /// Sets the process's clocks.
    pub fn turn(&self, clock: &Clock) {
        for (at, offset) in [(WALL, &clock.wall), (BOOT, &clock.boot)] {
            let bytes = offset.load(Ordering::SeqCst).to_le_bytes();
            // it may just have been killed
            let _ = self.memory.write_all_at(&bytes, self.function + at);
        }
    }
}

/// Offset and size of a symbol of an ELF image (elf(5)).
fn symbol(image: &[u8], wanted: &[u8]) -> Option<(u64, u64)> {
    let number = |at: usize, size: usize| {
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(&image[at..at + size]);
        u64::from_le_bytes(bytes)
    };
    let word = |at: usize| usize::try_from(number(at, 8)).expect("within the image");
    // e_shoff, e_shentsize, e_shnum; sh_type, sh_offset, sh_size, sh_link
    let (table, entry, count) = (word(40), number(58, 2), number(60, 2));
    let section = |index: u64| table + usize::try_from(index * entry).expect("within the image");
    let symbols = (0..count).map(section).find(|at| number(at + 4, 4) == 11)?;
    let names = word(section(number(symbols + 40, 4)) + 24);
    let (first, size) = (word(symbols + 24), word(symbols + 32));
    (first..first + size).step_by(24).find_map(|at| {
        let name = names + usize::try_from(number(at, 4)).expect("within the image");
        let named = image[name..].starts_with(wanted) && image[name + wanted.len()] == 0;
        named.then(|| (number(at + 8, 8), number(at + 16, 8)))
    })
}
