//! A real writer process, killed at random moments: what it said was recorded is there, and everything that is
//! there can be verified. And a full disk: refused with a clear error, and over when there is room again.

use lockgate_model::{
    event::EventKind,
    id::SessionId,
    port::{Durability, Recorder},
};
use lockgate_store::{
    Integrity, Log, LogSettings, Reader, Record, VerifyReport,
    contract::{record, sample},
};
use std::{
    collections::{BTreeMap, HashMap},
    io::{BufRead, BufReader, Read},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, mpsc},
    time::Duration,
};

/// How often the writer is killed.
const KILLS: u32 = 200;
/// So many writers at a time, each on a log of its own: they wait for the disk more than they work.
const ROWS: u32 = 4;
/// Kills on one log before a new one is begun: keeps reading it back quick.
const KILLS_A_LOG: u32 = 5;
/// Every second kill comes this long after the start at most: while the log is opened and repaired.
const LONGEST_START: Duration = Duration::from_millis(60);
/// The others come this long after the first acknowledgement at most: in the midst of writing.
const LONGEST_WORK: Duration = Duration::from_millis(15);
/// Small, so that some kills hit the change from one segment to the next.
const SEGMENT_BYTES: u64 = 48 << 10;
/// Session numbers that one life may use.
const SESSIONS_A_LIFE: u32 = 100_000;

#[test]
fn no_acknowledged_record_is_lost_by_sigkill_at_any_moment() {
    let totals: Vec<Totals> = std::thread::scope(|scope| {
        let rows: Vec<_> = (0..ROWS).map(|row| scope.spawn(move || live_and_die(row))).collect();
        rows.into_iter().map(|row| row.join().unwrap()).collect()
    });
    let sum = |of: fn(&Totals) -> usize| totals.iter().map(of).sum::<usize>();
    let (kills, at_work, acknowledged) = (sum(|t| t.kills), sum(|t| t.at_work), sum(|t| t.acknowledged));
    println!("{kills} kills, {at_work} of them while records were acknowledged; {acknowledged} were");
    assert_eq!(kills, KILLS as usize);
    assert!(at_work >= kills / 2);
}

#[derive(Default)]
struct Totals {
    kills: usize,
    at_work: usize,
    acknowledged: usize,
}

/// One row of lives, on one log after another.
fn live_and_die(row: u32) -> Totals {
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ u64::from(row + 1));
    let mut totals = Totals::default();
    let mut directory = tempfile::tempdir().unwrap();
    for life in 0..KILLS / ROWS {
        if life % KILLS_A_LOG == 0 {
            directory = tempfile::tempdir().unwrap();
        }
        let dir = directory.path().join("store");
        let said = run_and_kill(&dir, life, &mut random);
        totals.kills += 1;
        totals.at_work += usize::from(!said.is_empty());
        totals.acknowledged += said.len();
        if dir.join("segments").is_dir() {
            check(&dir, &said, life);
        } else {
            assert!(said.is_empty(), "life {life}: records without a log");
        }
    }
    totals
}

/// Runs the writer for a while and kills it; what it said it had recorded: seq → mark.
fn run_and_kill(dir: &Path, life: u32, random: &mut Random) -> BTreeMap<u64, (String, u64)> {
    let mut writer = Command::new(env!("CARGO_BIN_EXE_store_writer"))
        .arg(dir)
        .arg(SEGMENT_BYTES.to_string())
        .arg((life * SESSIONS_A_LIFE).to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Read while it writes: a full pipe would stop it.
    let mut pipe = BufReader::new(writer.stdout.take().unwrap());
    let (first, wait_for_first) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut said = String::new();
        pipe.read_line(&mut said).unwrap();
        let _ = first.send(());
        pipe.read_to_string(&mut said).unwrap();
        said
    });
    if life.is_multiple_of(2) {
        std::thread::sleep(LONGEST_START.mul_f64(random.fraction()));
    } else {
        wait_for_first.recv_timeout(Duration::from_secs(30)).expect("the writer acknowledges a record");
        std::thread::sleep(LONGEST_WORK.mul_f64(random.fraction()));
    }
    writer.kill().unwrap();
    let status = writer.wait().unwrap();
    assert_eq!(status.signal(), Some(9), "the writer ended by itself: {status}");
    let said = reader.join().unwrap();
    said.lines()
        .map(|line| {
            let mut words = line.split(' ');
            let mut next = || words.next().unwrap();
            (next().parse().unwrap(), (next().to_owned(), next().parse().unwrap()))
        })
        .collect()
}

/// Verifies the log as the kill left it, opens it, and looks for everything that was acknowledged.
fn check(dir: &Path, said: &BTreeMap<u64, (String, u64)>, life: u32) {
    if dir.join("head/checkpoint").exists() {
        intact(&Reader::open(dir).unwrap().verify(None).unwrap(), life);
    }
    let settings = LogSettings { segment_bytes: SEGMENT_BYTES, ..LogSettings::new(dir, "build-7".into()) };
    let log = Log::open(settings, Arc::new(sample::FixedAmbient::default())).unwrap();
    log.close().unwrap();
    let reader = Reader::open(dir).unwrap();
    let report = reader.verify(Some(log.public_key().clone())).unwrap();
    intact(&report, life);
    assert_eq!(report.head.as_ref().map(|head| head.records_after), Some(0), "life {life}:\n{report}");

    let records: Vec<Record> = reader.records().map(Result::unwrap).collect();
    // The tree outlived the kill, too: the first, the last and one between are proven.
    for seq in [1, report.last_seq.div_ceil(2), report.last_seq]
        .into_iter()
        .filter(|seq| (1..=report.last_seq).contains(seq))
    {
        let proof = reader.prove(seq).unwrap_or_else(|error| panic!("life {life}: record {seq}: {error}"));
        assert_eq!(proof.check(log.public_key()).unwrap().0.seq, seq, "life {life}");
    }
    let found = marks(&records);
    for (seq, mark) in said {
        assert_eq!(found.get(seq), Some(mark), "life {life}: record {seq} was acknowledged");
    }
    for (session, (began, ended)) in sessions(&records) {
        assert_eq!((began, ended), (1, 1), "life {life}: {session} began and ended so often");
    }
}

fn intact(report: &VerifyReport, life: u32) {
    assert_eq!(report.integrity, Integrity::Intact, "life {life}:\n{report}");
}

fn marks(records: &[Record]) -> HashMap<u64, (String, u64)> {
    records.iter().filter_map(|record| Some((record.seq, sample::marked(&record.event)?))).collect()
}

fn sessions(records: &[Record]) -> HashMap<SessionId, (u32, u32)> {
    let mut sessions: HashMap<_, (u32, u32)> = HashMap::new();
    for record in records {
        let Some(id) = record.event.session else { continue };
        let session = sessions.entry(id).or_default();
        match record.event.kind {
            EventKind::SessionStarted(_) => session.0 += 1,
            EventKind::SessionEnded(_) => session.1 += 1,
            _ => {}
        }
    }
    sessions
}

/// xorshift64: the moments need not be good randomness, only different ones.
struct Random(u64);

impl Random {
    fn fraction(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A small file system of its own; gone with the value.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Needs root: fails, and says so, where it may not mount.
    fn mount(kib: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(format!("size={kib}k")).unwrap();
        rustix::mount::mount(
            "tmpfs",
            directory.path(),
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            &*options,
        )
        .expect("mount a small tmpfs (this test needs root: run `cargo xtask test`)");
        Self(directory)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_refuses_records_and_recovers() {
    let disk = SmallDisk::mount(1024);
    let dir = disk.0.path().join("store");
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![0; 256 << 10]).unwrap();
    let log = Log::open(LogSettings::new(&dir, "build-7".into()), Arc::new(sample::FixedAmbient::default()))
        .unwrap();

    let text = "x".repeat(4000);
    let mut acknowledged = Vec::new();
    let refusal = loop {
        let durability = if acknowledged.len() % 2 == 0 { Durability::Written } else { Durability::Synced };
        match record(&log, vec![sample::mark(&text, acknowledged.len() as u64)], durability) {
            Ok(seq) => acknowledged.push(seq),
            Err(error) => break error.to_string(),
        }
        assert!(acknowledged.len() < 1000, "a disk of 1 MB took 4 MB");
    };
    assert!(refusal.contains("No space left on device"), "{refusal}");
    // What is submitted meanwhile waits.
    let session = sample::session(1);
    log.submit(vec![sample::ended(&session)]);
    record(&log, vec![sample::mark(&text, 0)], Durability::Written).expect_err("still full");

    std::fs::remove_file(&ballast).unwrap();
    let next = record(&log, vec![sample::mark("after", 0)], Durability::Synced).expect("there is room again");
    assert!(next > *acknowledged.last().unwrap());
    log.close().unwrap();

    let reader = Reader::open(&dir).unwrap();
    let report = reader.verify(Some(log.public_key().clone())).unwrap();
    assert_eq!(report.integrity, Integrity::Intact, "{report}");
    let records: Vec<Record> = reader.records().map(Result::unwrap).collect();
    let marks = marks(&records);
    assert!(acknowledged.iter().all(|seq| marks.contains_key(seq)));
    assert_eq!(marks.len(), acknowledged.len() + 1, "what was refused left nothing behind");
    assert_eq!(
        sessions(&records).get(&session.id),
        Some(&(0, 1)),
        "the submitted closing was written after all"
    );
}
