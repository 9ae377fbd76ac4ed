//! Nothing queued is lost on close, nothing blocks the sender, and a sink that fails is survived.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::*;
use crate::metrics::{Metrics, Role};

/// A device on which every write fails as on a full disk.
const FULL: &str = "/dev/full";

struct Fixture {
    dir: tempfile::TempDir,
    metrics: Arc<Metrics>,
}

impl Fixture {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), metrics: Metrics::new(Role::Sidecar).unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn writer(&self, path: &Path, capacity: usize) -> Writer<u32> {
        let sink = Sink::File(path.to_owned());
        Writer::start("test", &sink, capacity, self.metrics.audit_dropped()).unwrap().unwrap()
    }

    fn dropped(&self) -> u64 {
        let text = String::from_utf8(self.metrics.encode().unwrap()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("outrigger_audit_dropped_total "));
        line.unwrap().parse().unwrap()
    }
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if condition() {
            return;
        }
        thread::park_timeout(Duration::from_millis(1));
    }
    panic!("not within 10 s: {what}");
}

#[test]
fn close_writes_everything_in_order() {
    let fixture = Fixture::new();
    let path = fixture.path("log");
    let writer = fixture.writer(&path, 4096);
    for number in 0..3000 {
        writer.push(number).unwrap();
    }
    writer.close();
    let expected: String = (0..3000).map(|number| format!("{number}\n")).collect();
    assert_eq!(fs::read_to_string(path).unwrap(), expected);
    assert_eq!(fixture.dropped(), 0);
}

#[test]
fn a_record_is_written_without_a_close() {
    let fixture = Fixture::new();
    let path = fixture.path("log");
    let writer = fixture.writer(&path, 16);
    for text in ["1\n", "1\n1\n"] {
        writer.push(1).unwrap();
        eventually("the line is in the file", || fs::read_to_string(&path).unwrap() == text);
    }
    eventually("nothing counts as queued", || writer.state.queued.load(Ordering::Relaxed) == 0);
}

#[test]
fn after_close_records_are_refused_and_counted() {
    let fixture = Fixture::new();
    let writer = fixture.writer(&fixture.path("log"), 16);
    writer.close();
    writer.close();
    assert_eq!(writer.push(1), Err(Overflow));
    assert_eq!(fixture.dropped(), 1);
}

#[test]
fn a_full_queue_refuses_at_once_and_every_lost_record_is_counted() {
    let fixture = Fixture::new();
    let writer = fixture.writer(Path::new(FULL), 8);
    let mut pushed = 1;
    while writer.push(pushed).is_ok() {
        pushed += 1;
    }
    assert!(writer.crowded());
    eventually("the failure is seen", || writer.failing());
    writer.close();
    assert_eq!(fixture.dropped(), u64::from(pushed));
}

#[test]
fn a_rotated_file_is_left_for_a_new_one() {
    let fixture = Fixture::new();
    let (path, moved) = (fixture.path("log"), fixture.path("log.1"));
    let writer = fixture.writer(&path, 16);
    writer.push(1).unwrap();
    eventually("the first line is written", || fs::read_to_string(&path).unwrap() == "1\n");
    fs::rename(&path, &moved).unwrap();
    writer.reopen();
    writer.push(2).unwrap();
    writer.close();
    assert_eq!(fs::read_to_string(moved).unwrap(), "1\n");
    assert_eq!(fs::read_to_string(path).unwrap(), "2\n");
}

#[test]
fn a_sink_that_works_again_gets_what_was_waiting() {
    let fixture = Fixture::new();
    let path = fixture.path("log");
    symlink(FULL, &path).unwrap();
    let writer = fixture.writer(&path, 16);
    writer.push(1).unwrap();
    eventually("the failure is seen", || writer.failing());
    writer.push(2).unwrap();
    fs::remove_file(&path).unwrap();
    writer.reopen();
    eventually("the writer recovers", || !writer.failing());
    writer.close();
    assert_eq!(fs::read_to_string(path).unwrap(), "1\n2\n");
    assert_eq!(fixture.dropped(), 0);
}

#[test]
fn dropping_the_writer_writes_out_too() {
    let fixture = Fixture::new();
    let path = fixture.path("log");
    let writer = fixture.writer(&path, 16);
    writer.push(7).unwrap();
    drop(writer);
    assert_eq!(fs::read_to_string(path).unwrap(), "7\n");
}
