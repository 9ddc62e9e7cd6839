//! Fixture trees in place of `/proc`: a folder of `tests/fixtures/proc` is a case, its `expected.txt` what comes out.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use proptest::prelude::*;

use super::*;

fn render(sample: &HostSample, root: &Path) -> String {
    let mut text = String::new();
    let out = &mut text;
    let port = |l: &ListeningPort| format!("{}@{}", l.port, l.interface.as_deref().unwrap_or("-"));
    let connection = |c: &Connection| {
        format!(
            "{} <- {}@{}",
            c.remote,
            c.local_port,
            c.local_interface.as_deref().unwrap_or("-")
        )
    };
    list(
        out,
        "listening_tcp",
        sample.listening_tcp().map(|v| v.iter().map(port).collect()),
    );
    list(
        out,
        "listening_udp",
        sample.listening_udp().map(|v| v.iter().map(port).collect()),
    );
    list(
        out,
        "established",
        sample.established().map(|v| v.iter().map(connection).collect()),
    );
    list(
        out,
        "interfaces",
        sample.interfaces.clone().map(|v| {
            let line = |i: &Interface| format!("{} default_route={:?} {:?}", i.key(), i.default_route, i.counters);
            v.iter().map(line).collect()
        }),
    );
    let counted = sample.counters(&InterfaceSelection::Auto);
    list(out, "counted", counted.map(|map| map.into_keys().collect()));
    list(out, "boot_id", sample.boot_id.clone().map(|id| vec![id]));
    list(out, "notes", Ok(sample.notes.iter().map(Note::to_string).collect()));
    text.replace(root.to_str().unwrap(), "PROC")
}

fn list(out: &mut String, name: &str, items: Measured<Vec<String>>) {
    match items {
        Err(missing) => writeln!(out, "{name}: MISSING {missing}").unwrap(),
        Ok(items) => {
            writeln!(out, "{name}: {}", items.len()).unwrap();
            for item in items {
                writeln!(out, "  {item}").unwrap();
            }
        }
    }
}

#[test]
fn fixture_trees_come_out_as_expected() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/proc");
    let mut wrong = Vec::new();
    let mut seen = 0;
    for case in fs::read_dir(&cases).unwrap() {
        let root = case.unwrap().path();
        let sample = HostCollector::new(HostPaths::proc_only(&root)).collect();
        let expected = fs::read_to_string(root.join("expected.txt")).unwrap_or_default();
        let found = render(&sample, &root);
        seen += 1;
        if found != expected {
            wrong.push(format!("== {}\n{found}", root.display()));
        }
    }
    assert!(seen >= 8, "only {seen} cases");
    assert!(wrong.is_empty(), "differ from expected.txt:\n{}", wrong.join("\n"));
}

#[test]
fn missing_names_both_sources_and_keeps_the_reason_of_the_last() {
    let collector = HostCollector::new(HostPaths::default());
    let mut notes = Vec::new();
    let denied = |origin: &str| CollectError::from_io(origin, io::Error::from_raw_os_error(libc::EACCES));
    let file = Path::new("/proc/net/tcp");
    let both: Measured<()> = collector.first_of(
        "sock_diag tcp",
        file,
        &mut notes,
        |_| Err(denied("sock_diag tcp")),
        |_| Err(denied("/proc/net/tcp")),
    );
    let missing = both.unwrap_err();
    assert_eq!(
        (missing.source.as_str(), missing.reason),
        ("/proc/net/tcp", Reason::Denied)
    );
    assert!(missing.detail.contains("sock_diag tcp denied"), "{missing}");
    assert_eq!(notes, []);

    let one = collector.first_of(
        "sock_diag tcp",
        file,
        &mut notes,
        |_| Err(denied("sock_diag tcp")),
        |_| Ok(1),
    );
    assert_eq!(one, Ok(1));
    assert!(
        matches!(notes.as_slice(), [Note::Fallback { used, instead_of }]
            if used == "/proc/net/tcp" && instead_of.reason == Reason::Denied),
        "{notes:?}"
    );
}

#[test]
fn a_hundred_thousand_rows_are_read() {
    let root = tempfile::tempdir().unwrap();
    let net = root.path().join("net");
    fs::create_dir(&net).unwrap();
    let mut table = String::from("  sl  local_address rem_address   st\n");
    for n in 0..100_000_u32 {
        writeln!(
            table,
            "{n:4}: 0100000A:22B3 {:08X}:{:04X} 01 00000000:00000000 00:00000000 00000000 0 0 {n} 1",
            0x0A00_0000 + n / 50_000,
            1 + n % 50_000
        )
        .unwrap();
    }
    fs::write(net.join("tcp"), table).unwrap();
    let sample = HostCollector::new(HostPaths::proc_only(root.path())).collect();
    assert_eq!(sample.established().unwrap().len(), 100_000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Any bytes after a header: no panic, and rows that are none are never taken for sockets without a word.
    #[test]
    fn any_bytes_are_survived(rest in proptest::collection::vec(any::<u8>(), 0..400)) {
        let root = tempfile::tempdir().unwrap();
        let net = root.path().join("net");
        fs::create_dir(&net).unwrap();
        for (name, header) in [
            ("tcp", "local_address\n"), ("tcp6", "local_address\n"), ("udp", "local_address\n"),
            ("udp6", "local_address\n"), ("dev", "Receive\nbytes\n"), ("route", "Iface\n"), ("ipv6_route", ""),
        ] {
            fs::write(net.join(name), [header.as_bytes(), &rest].concat()).unwrap();
        }
        let sample = HostCollector::new(HostPaths::proc_only(root.path())).collect();
        prop_assert!(sample.established().is_ok_and(|list| list.is_empty()) || sample.sockets.tcp.is_err());
    }

    /// A row with one byte changed: no panic, and the good row beside it is kept.
    #[test]
    fn a_damaged_row_costs_itself_alone(at in 0_usize..90, byte in any::<u8>()) {
        let good = "   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0\n";
        let mut damaged = good.replace("0016", "0017").into_bytes();
        damaged[at] = byte;
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("net")).unwrap();
        let table = [b"local_address\n".as_slice(), &damaged, good.as_bytes()].concat();
        fs::write(root.path().join("net/tcp"), table).unwrap();
        let sample = HostCollector::new(HostPaths::proc_only(root.path())).collect();
        let ports = sample.listening_tcp().unwrap();
        prop_assert!(ports.iter().any(|l| l.port == 22 && l.interface.is_none()), "{:?}", ports);
    }
}
