use super::*;
use crate::model::UnixTime;

fn at(seconds: u64) -> Monotonic {
    Monotonic(Duration::from_secs(seconds))
}

fn entry(who: &str, what: &str, changed: bool) -> AuditEntry {
    AuditEntry {
        time: UnixTime::from_seconds(1_795_370_400),
        thing: "cam-1".parse().unwrap(),
        who: who.to_owned(),
        what: what.to_owned(),
        before: vec![],
        after: if changed { vec!["operator".to_owned()] } else { vec![] },
    }
}

fn lines(directory: &Path, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(directory.join(name)).unwrap();
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

#[test]
fn a_line_says_everything() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = AuditLog::open(directory.path());
    log.append(&entry("root", "quarantined (isolate)\n\u{1b}[2J", true), at(0))
        .unwrap();
    let text = std::fs::read_to_string(directory.path().join(NAME)).unwrap();
    assert_eq!(
        text,
        "{\"time\":\"2026-11-22T18:00:00Z\",\"thing\":\"cam-1\",\"who\":\"root\",\
         \"what\":\"quarantined (isolate)\\n\\u001b[2J\",\"before\":[],\"after\":[\"operator\"]}\n"
    );
    let mode = directory.path().join(NAME).metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_thousand_refusals_are_a_line_a_minute_with_their_count() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = AuditLog::open(directory.path());
    for number in 0..1000 {
        log.append(&entry("shadow", "release asked for", false), at(number / 10))
            .unwrap();
    }
    log.append(&entry("root", "released", true), at(99)).unwrap();
    log.flush(at(300)).unwrap();
    let counts: Vec<(String, Option<u64>)> = lines(directory.path(), NAME)
        .iter()
        .map(|line| (line["who"].as_str().unwrap().to_owned(), line["count"].as_u64()))
        .collect();
    let expected = [
        ("shadow", None),
        ("shadow", Some(599)),
        ("shadow", None),
        ("root", None),
        ("shadow", Some(399)),
    ];
    assert_eq!(counts, expected.map(|(who, count)| (who.to_owned(), count)));
}

#[test]
fn a_device_cannot_wash_the_log_out_with_changing_words_or_switching() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = AuditLog::open(directory.path());
    for number in 0..50_000 {
        log.append(&entry("shadow", &format!("mode is {number}"), false), at(0))
            .unwrap();
        log.append(&entry("shadow", "quarantined", true), at(0)).unwrap();
    }
    assert_eq!(lines(directory.path(), NAME).len(), REFUSALS + CHANGES);
}

#[test]
fn it_is_rotated_by_size_and_three_parts_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = AuditLog::open(directory.path());
    let words = "x".repeat(100_000);
    for number in 0..60 {
        log.append(&entry(&format!("who-{number}"), &words, true), at(0))
            .unwrap();
    }
    let mut names: Vec<_> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|file| file.unwrap())
        .inspect(|file| assert!(file.metadata().unwrap().len() <= MOST_BYTES))
        .map(|file| file.file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, [NAME, "audit.jsonl.1", "audit.jsonl.2", "audit.jsonl.3"]);
    assert_eq!(lines(directory.path(), NAME).last().unwrap()["who"], "who-59");
}

#[test]
fn a_torn_line_does_not_spoil_the_next() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join(NAME), "{\"time\":\"2026-11-22T18:0").unwrap();
    let mut log = AuditLog::open(directory.path());
    log.append(&entry("root", "released", true), at(0)).unwrap();
    let lines = lines(directory.path(), NAME);
    assert_eq!((lines.len(), &lines[0]["what"]), (1, &json!("released")));
}

#[test]
fn what_cannot_be_written_is_counted_and_the_log_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(NAME);
    std::os::unix::fs::symlink("elsewhere", &path).unwrap();
    let mut log = AuditLog::open(directory.path());
    assert!(log.append(&entry("root", "released", true), at(0)).is_err());
    assert_eq!(log.lost(), 1);
    assert!(!directory.path().join("elsewhere").exists(), "a link is not followed");
    assert!(log.append(&entry("root", "released again", true), at(1)).is_err());
    assert_eq!(log.lost(), 2);
    assert!(
        log.flush(at(2)).is_err(),
        "the trouble is not over because nothing new is to be said"
    );
    std::fs::remove_file(&path).unwrap();
    log.flush(at(3)).unwrap();
    log.append(&entry("root", "quarantined", true), at(4)).unwrap();
    let lines = lines(directory.path(), NAME);
    let said: Vec<_> = lines
        .iter()
        .map(|line| (line["what"].as_str().unwrap(), line["lost"].as_u64()))
        .collect();
    assert_eq!(said, [("released again", Some(1)), ("quarantined", None)]);
    assert_eq!(log.lost(), 1);
}
