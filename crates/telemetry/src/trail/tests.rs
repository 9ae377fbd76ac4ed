//! A trail as a reader finds it, whole and after somebody was at it.

use std::fs;

use serde_json::{Value, json};

use super::*;
use crate::metrics::{Metrics, Role};
use crate::sink::Sink;
use crate::writer::Writer;

struct Bed {
    dir: tempfile::TempDir,
    metrics: std::sync::Arc<Metrics>,
}

impl Bed {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), metrics: Metrics::new(Role::Ingress).unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("audit.jsonl")
    }

    fn writer(&self, segment_bytes: u64) -> Writer<Value> {
        let trail = TrailSettings {
            key: self.dir.path().join("audit.key"),
            segment_bytes,
            segment_age: Duration::from_secs(3600),
            fsync: Fsync::Batch,
            sequence: self.metrics.audit_sequence(),
        };
        Writer::start_trail("test", &Sink::File(self.path()), 1000, self.metrics.audit_dropped(), trail)
            .unwrap()
            .unwrap()
    }

    /// A process that writes some records and stops.
    fn run(&self, records: usize) {
        let writer = self.writer(1 << 20);
        (0..records).for_each(|n| writer.push(json!({ "who": "ada", "n": n })).unwrap());
        writer.close();
    }

    fn key(&self) -> PublicKey {
        PublicKey::load(&self.dir.path().join("audit.key.pub")).unwrap()
    }

    fn verify(&self) -> Report {
        verify(&segments(&self.path()).unwrap(), &[self.key()]).unwrap()
    }

    fn lines(&self) -> Vec<String> {
        fs::read_to_string(self.path()).unwrap().lines().map(str::to_owned).collect()
    }

    /// What verification says once the lines have been changed.
    fn after(&self, change: impl FnOnce(&mut Vec<String>)) -> Vec<(u64, FaultKind)> {
        let whole = fs::read(self.path()).unwrap();
        let mut lines = self.lines();
        change(&mut lines);
        fs::write(self.path(), lines.join("\n") + "\n").unwrap();
        let faults = self.verify().faults.into_iter().map(|fault| (fault.line, fault.kind)).collect();
        fs::write(self.path(), whole).unwrap();
        faults
    }
}

#[test]
fn a_trail_is_whole_over_restarts() {
    let bed = Bed::new();
    bed.run(3);
    bed.run(2);
    let report = bed.verify();
    assert_eq!(report.faults, []);
    // Each run has a first and a last line of its own.
    assert_eq!((report.lines, report.first, report.last, report.crashes), (9, Some(0), Some(8), 0));
    let sequence = String::from_utf8(bed.metrics.encode().unwrap()).unwrap();
    assert!(sequence.contains("outrigger_audit_sequence 8"), "{sequence}");
}

#[test]
fn every_change_is_found() {
    let bed = Bed::new();
    bed.run(5);
    assert_eq!(bed.after(|_| {}), []);
    let edited = bed.after(|lines| lines[2] = lines[2].replace("ada", "eve"));
    assert_eq!(edited, [(4, FaultKind::Broken)]);
    let removed = bed.after(|lines| drop(lines.remove(2)));
    assert_eq!(removed, [(3, FaultKind::OutOfOrder { expected: 2, found: 3 })]);
    let swapped = bed.after(|lines| lines.swap(2, 3));
    assert_eq!(swapped[0], (3, FaultKind::OutOfOrder { expected: 2, found: 3 }));
    let repeated = bed.after(|lines| lines.insert(2, lines[1].clone()));
    assert_eq!(repeated[0], (3, FaultKind::OutOfOrder { expected: 2, found: 1 }));
    let added = bed.after(|lines| lines.insert(2, r#"{"who":"eve"}"#.into()));
    assert_eq!(added[0], (3, FaultKind::NotALine));
    let first = bed.after(|lines| drop(lines.remove(0)));
    assert_eq!(first, [], "an earlier file may hold it: `first` says so");
    let last = bed.after(|lines| lines.truncate(4));
    assert_eq!(last, [(4, FaultKind::Unsigned { lines: 3 })]);
}

#[test]
fn a_chain_made_again_does_not_have_the_signatures() {
    let (bed, forger) = (Bed::new(), Bed::new());
    bed.run(2);
    forger.run(2);
    fs::copy(forger.path(), bed.path()).unwrap();
    let faults = bed.verify().faults;
    assert!(!faults.is_empty() && faults.iter().all(|fault| fault.kind == FaultKind::BadSignature), "{faults:?}");
}

#[test]
fn an_edited_line_with_a_signature_is_named_itself() {
    let bed = Bed::new();
    bed.run(1);
    let last = bed.lines().len() - 1;
    let faults = bed.after(|lines| lines[last] = lines[last].replace("stopped", "burned!"));
    assert_eq!(faults, [(last as u64 + 1, FaultKind::BadSignature)]);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the writer is a thread of its own")]
fn segments_follow_each_other_and_a_missing_one_is_found() {
    let bed = Bed::new();
    let writer = bed.writer(2000);
    for n in 0..60 {
        writer.push(json!({ "who": "ada", "n": n, "text": "x".repeat(100) })).unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    writer.close();
    let files = segments(&bed.path()).unwrap();
    assert!(files.len() > 2, "{files:?}");
    let report = bed.verify();
    assert_eq!((report.faults, report.files), (vec![], files.len()));
    fs::remove_file(&files[1]).unwrap();
    let faults = bed.verify().faults;
    assert!(matches!(faults.as_slice(), [Fault { kind: FaultKind::OutOfOrder { .. }, line: 1, .. }]), "{faults:?}");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the writer is a thread of its own")]
fn swapped_segments_are_read_in_their_order() {
    let bed = Bed::new();
    let writer = bed.writer(2000);
    for n in 0..60 {
        writer.push(json!({ "who": "ada", "n": n, "text": "x".repeat(100) })).unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    writer.close();
    let files = segments(&bed.path()).unwrap();
    let (one, other) = (fs::read(&files[0]).unwrap(), fs::read(&files[1]).unwrap());
    fs::write(&files[0], other).unwrap();
    fs::write(&files[1], one).unwrap();
    // Lines say where they belong, names of files do not.
    assert_eq!(bed.verify().faults, []);
    let text = fs::read_to_string(&files[0]).unwrap();
    fs::write(&files[0], text.replacen("ada", "eve", 1)).unwrap();
    assert!(!bed.verify().faults.is_empty());
}

#[test]
fn a_trail_goes_on_after_its_last_kept_segment() {
    let bed = Bed::new();
    bed.run(2);
    fs::rename(bed.path(), segment::kept_as(&bed.path(), 0)).unwrap();
    bed.run(1);
    let report = bed.verify();
    assert_eq!((report.faults, report.files, report.last), (vec![], 2, Some(6)));
}

#[test]
fn half_a_line_is_cut_off_and_told() {
    let bed = Bed::new();
    bed.run(2);
    let mut text = fs::read_to_string(bed.path()).unwrap();
    text.push_str(r#"{"who":"ad"#);
    fs::write(bed.path(), text).unwrap();
    assert_eq!(bed.verify().faults.last().unwrap().kind, FaultKind::Torn);
    bed.run(1);
    let report = bed.verify();
    assert_eq!((report.faults, report.crashes), (vec![], 1));
    assert!(bed.lines().iter().any(|line| line.contains(r#""torn_bytes":10"#)));
}

#[test]
fn lines_of_no_trail_are_moved_out_of_the_way_and_never_over_others() {
    let bed = Bed::new();
    fs::write(bed.path(), "{\"who\":\"ada\"}\n").unwrap();
    bed.run(1);
    assert_eq!(bed.verify().faults, []);
    let aside = bed.dir.path().join("audit.jsonl.unsigned");
    assert_eq!(fs::read_to_string(&aside).unwrap(), "{\"who\":\"ada\"}\n");
    fs::write(bed.path(), "{\"who\":\"bob\"}\n").unwrap();
    let error = segment::resume(&bed.path(), &bed.key()).unwrap_err().to_string();
    assert!(error.contains("audit.jsonl.unsigned"), "{error}");
}

#[test]
fn lost_records_leave_a_line() {
    let bed = Bed::new();
    let writer = bed.writer(1 << 20);
    while writer.push(json!({ "n": 0 })).is_ok() {}
    writer.close();
    let report = bed.verify();
    assert_eq!(report.faults, []);
    assert!(report.lost >= 1, "{report:?}");
}

#[test]
fn a_file_that_was_moved_away_ends_and_the_next_follows() {
    let bed = Bed::new();
    let writer = bed.writer(1 << 20);
    writer.push(json!({ "n": 1 })).unwrap();
    while bed.lines().len() < 2 {
        std::thread::yield_now();
    }
    let moved = bed.dir.path().join("moved.jsonl");
    fs::rename(bed.path(), &moved).unwrap();
    writer.reopen();
    writer.push(json!({ "n": 2 })).unwrap();
    writer.close();
    let report = verify(&[bed.path(), moved.clone()], &[bed.key()]).unwrap();
    assert_eq!((report.faults, report.files), (vec![], 2));
    assert!(fs::read_to_string(&moved).unwrap().contains(r#""n":2"#), "a batch is never split over two files");
}

#[test]
fn a_sure_trail_is_on_the_disk_line_by_line_and_goes_on_after_everything() {
    let dir = tempfile::tempdir().unwrap();
    let (path, key) = (dir.path().join("audit.jsonl"), dir.path().join("audit.key"));
    let metrics = Metrics::new(Role::Authority).unwrap();
    let settings = || TrailSettings {
        key: key.clone(),
        segment_bytes: 2000,
        segment_age: Duration::from_secs(3600),
        fsync: Fsync::Batch,
        sequence: metrics.audit_sequence(),
    };
    let mut trail = SureTrail::open(&path, settings()).unwrap();
    for n in 0..20 {
        trail.write(&serde_json::json!({ "n": n })).unwrap();
        let files = segments(&path).unwrap().into_iter().map(|file| std::fs::read_to_string(file).unwrap());
        assert!(files.collect::<String>().contains(&format!("\"n\":{n},")), "{n}");
    }
    trail.turn().unwrap();
    drop(trail);
    // A crash in the middle of a line.
    let mut text = std::fs::read(&path).unwrap();
    text.extend(b"{\"n\":");
    std::fs::write(&path, text).unwrap();
    let mut trail = SureTrail::open(&path, settings()).unwrap();
    trail.write(&serde_json::json!({ "n": 20 })).unwrap();
    // What cannot be written is said, and the next one goes on.
    trail.failed(std::io::ErrorKind::StorageFull.into());
    trail.write(&serde_json::json!({ "n": 21 })).unwrap();
    drop(trail);
    let files = segments(&path).unwrap();
    assert!(files.len() > 2, "{files:?}");
    let report = verify(&files, &[PublicKey::load(&key).unwrap()]).unwrap();
    assert!(report.faults.is_empty(), "{report:?}");
}
