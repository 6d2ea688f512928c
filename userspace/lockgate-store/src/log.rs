//! The writing side: one per directory, opened by the agent, shared as a [`Recorder`].

use crate::{
    appender::{Appender, Parts, Position},
    crash::{self, Open},
    disk::{Disk, RealDisk},
    error::{During, StoreError},
    head,
    hold::Holds,
    index::{self, Index, Shared},
    key,
    layout::Layout,
    lock::DirLock,
    queue::Queue,
    reader::Reader,
    recover,
    retention::{self, Plan},
    search::{Keeper, Searcher},
    session::SessionFilter,
    signer::Signer,
    syncer::{SyncThread, Syncer, Written},
    tree::Tree,
    writer::{Answered, Writer, encode},
};
use lockgate_audit::{Chain, Checkpoint, NoteError, PublicKey, SigningKey, checkpoint};
use lockgate_model::{
    RequestId, Timestamp,
    custody::Removal,
    event::Event,
    id::NodeName,
    operation::Digest,
    port::{Ambient, BoxFuture, Durability, Receipt, RecordError, Recorder},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// A segment's usual size. Small enough to be made anew after a failed sync and to be read at start in well
/// under a second, large enough that a busy day is a few hundred files.
const SEGMENT_BYTES: u64 = 32 << 20;

/// Where and how a log is kept.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// The store's directory; made when missing.
    pub dir: PathBuf,
    /// Named in every record.
    pub node: NodeName,
    /// Where the signed head goes; None is `<dir>/head`. Best on another disk or host: whoever can write the
    /// log cannot cut it then without being found.
    pub head_dir: Option<PathBuf>,
    /// A new segment begins past this size.
    pub segment_bytes: u64,
    /// Whether what is recorded is kept searchable by words, by a thread of the lowest priority ([`crate::search`]).
    pub search: bool,
    /// Requests for approval that go on although nobody closed the log: somebody has them on a shelf.
    pub kept: BTreeSet<RequestId>,
}

impl LogSettings {
    /// With the usual segment size and the head beside the log, not searchable by words but by reading it.
    pub fn new(dir: impl Into<PathBuf>, node: NodeName) -> Self {
        Self {
            dir: dir.into(),
            node,
            head_dir: None,
            segment_bytes: SEGMENT_BYTES,
            search: false,
            kept: BTreeSet::new(),
        }
    }
}

/// The audit log, open for writing. Dropping it closes it.
pub struct Log {
    queue: Arc<Queue>,
    writer: Arc<Writer>,
    layout: Layout,
    public_key: PublicKey,
    index: Shared,
    searcher: Option<Searcher>,
    left_open: BTreeSet<RequestId>,
    shelved: BTreeMap<String, Digest>,
    /// The last record that retention may remove.
    removable: Arc<AtomicU64>,
    running: Mutex<Option<Running>>,
}

struct Running {
    write_thread: JoinHandle<bool>,
    sync_thread: JoinHandle<bool>,
    signer: JoinHandle<bool>,
    indexer: JoinHandle<()>,
    keeper: Option<Keeper>,
    syncer: Arc<Syncer>,
    lock: DirLock,
}

impl Log {
    /// Opens the log, repairs what a crash tore off its end, and closes what the crash left open: when this
    /// returns, every session and request of earlier runs has its closing record, synced and signed, but for the
    /// requests that the settings keep.
    pub fn open(settings: LogSettings, ambient: Arc<dyn Ambient>) -> Result<Self, StoreError> {
        Self::open_on(Arc::new(RealDisk), settings, ambient)
    }

    pub(crate) fn open_on(
        disk: Arc<dyn Disk>,
        settings: LogSettings,
        ambient: Arc<dyn Ambient>,
    ) -> Result<Self, StoreError> {
        let layout = Layout::new(&settings.dir, settings.head_dir.as_deref());
        layout.create()?;
        let lock = DirLock::take(&layout.dir, &layout.lock())?;
        let key = key::load_or_create(&layout, checkpoint::origin(&settings.node))?;
        let head = signed_head(&layout, &key, &*ambient)?;
        let recovered = recover::recover(&layout, Some(&head))?;
        let tree = Tree::open(&layout, &head)?;
        let segment = recovered.segment.clone();
        let (file, len) = match recovered.len {
            Some(len) => (disk.append(&segment.path).during("open", &segment.path)?, len),
            None => (disk.create(&segment.path).during("create", &segment.path)?, 0),
        };
        disk.sync_dir(&layout.segments()).during("sync", layout.segments())?;
        let written = Arc::new(AtomicU64::new(recovered.tip.seq));
        let index = Index::open(&layout, written.clone())
            .inspect_err(
                |error| tracing::warn!(%error, "no index; listings and this start read the whole log"),
            )
            .ok();
        let mut open = match &index {
            Some(index) => Open::of_index(index),
            None => Open::of_log(&layout)?,
        };
        let left_open = open.keep(&settings.kept);
        let shelved = std::mem::take(&mut open.shelved);
        let closings = crash::closings(open, &recovered, lock.left_open, ambient.now());
        let index = Shared::new(index);
        let (feed, indexer) = index::keep(index.clone(), layout.clone(), written.clone())
            .during("start a thread for", &layout.dir)?;
        let syncer = Arc::new(Syncer::new(Written { file: file.clone(), tip: recovered.tip, len }));
        let queue = Arc::new(Queue::default());
        let parts = Parts {
            disk,
            layout: layout.clone(),
            syncer: syncer.clone(),
            ambient: ambient.clone(),
            feed,
            segment_bytes: settings.segment_bytes,
        };
        let chain = Chain::resume(&settings.node, recovered.tip);
        let mut appender = Appender::new(parts, Position { chain, segment, file, len });
        let closings = closings.iter().map(encode).collect::<Result<Vec<_>, _>>();
        if let Err(error) = closings.map_err(io::Error::other).and_then(|events| appender.begin(events)) {
            // The index must be let go before the lock is.
            drop(appender);
            let _ = indexer.join();
            return Err(error).during("record what a crash left open in", &layout.dir);
        }
        let public_key = key.public();
        let (signer, heads) = Signer::new(layout.clone(), key, ambient, tree, syncer.clone());
        let sync_thread = SyncThread::new(syncer.clone(), heads);
        let spawn = |name: &str, work: Box<dyn FnOnce() -> bool + Send>| {
            thread::Builder::new().name(name.into()).spawn(work).during("start a thread for", &layout.dir)
        };
        let writer = Arc::new(Writer::new(queue.clone(), appender));
        let writing = writer.clone();
        let write_thread = spawn("audit-write", Box::new(move || writing.run()))?;
        let sync_thread = spawn("audit-sync", Box::new(move || sync_thread.run()))?;
        let signer = spawn("audit-head", Box::new(move || signer.run()))?;
        let keeper = settings.search.then(|| Keeper::start(layout.clone(), written));
        let keeper = keeper.transpose().during("start a thread for", &layout.dir)?;
        let searcher = keeper.as_ref().map(Keeper::searcher);
        let running = Running { write_thread, sync_thread, signer, indexer, keeper, syncer, lock };
        let running = Mutex::new(Some(running));
        let removable = Arc::new(AtomicU64::new(u64::MAX));
        Ok(Self {
            queue,
            writer,
            layout,
            public_key,
            index,
            searcher,
            left_open,
            shelved,
            removable,
            running,
        })
    }

    /// What verifies the signed head; worth keeping off the host.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// Those of [`LogSettings::kept`] that no record has closed: they go on.
    pub fn left_open(&self) -> &BTreeSet<RequestId> {
        &self.left_open
    }

    /// What rested on the shelf when this was opened, by the log's word: names, and SHA-256 of each value.
    pub fn shelved(&self) -> &BTreeMap<String, Digest> {
        &self.shelved
    }

    /// Reads beside the writer, with its index.
    pub fn reader(&self) -> Reader {
        Reader::indexed(self.layout.clone(), self.index.clone(), self.searcher.clone())
    }

    /// What moves it: records that are to go elsewhere stay until they are there.
    pub(crate) fn removable(&self) -> &Arc<AtomicU64> {
        &self.removable
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The legal holds on it.
    pub fn holds(&self) -> Holds {
        Holds::of(&self.layout)
    }

    /// What retention would remove now: records older than `keep` that neither policy nor holds keep. Reads every segment
    /// that is over its time.
    pub fn retention(&self, keep: Duration, now: Timestamp) -> Result<Plan, StoreError> {
        let open = self.reader().sessions(&SessionFilter {
            open: Some(true),
            limit: Some(usize::MAX),
            ..Default::default()
        })?;
        let open: Vec<_> = open.into_iter().map(|session| session.id).collect();
        let signed = Checkpoint::covers(&self.reader().checkpoint()?).unwrap_or(0);
        let removable = signed.min(self.removable.load(Ordering::Acquire));
        retention::plan(&self.layout, keep, &self.holds().all()?, &open, removable, now)
    }

    /// Writes down the hashes that stay of what a plan removes. To be recorded next: one removal each.
    pub fn prepare_removal(&self, plan: &Plan, by: &str) -> Result<Vec<Removal>, StoreError> {
        retention::prepare(&self.layout, plan, by)
    }

    /// Removes segments. `announced` is the number of the record that says so: a signed head must cover it.
    pub fn remove(&self, removal: &Removal, announced: u64) -> Result<(), StoreError> {
        let signed = Checkpoint::covers(&self.reader().checkpoint()?).unwrap_or(0);
        if signed < announced {
            let why = format!(
                "record {announced} announces a removal and is not signed yet (the head covers {signed})"
            );
            return Err(StoreError::NotProven(why));
        }
        retention::discard(&self.layout, removal)
    }

    /// Where the segment that begins with a record rests.
    pub fn segment_path(&self, first: u64) -> PathBuf {
        retention::path(&self.layout, first)
    }

    /// Writes what is queued, syncs, signs the head and notes that the end was orderly. Blocks for as long as
    /// the disk takes. Whoever records afterwards is refused.
    pub fn close(&self) -> Result<(), StoreError> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Running { write_thread, sync_thread, signer, indexer, keeper, syncer, lock }) = running
        else {
            return Ok(());
        };
        self.queue.stop();
        let written = write_thread.join().unwrap_or(false);
        syncer.stop();
        let synced = sync_thread.join().unwrap_or(false);
        let signed = signer.join().unwrap_or(false);
        // Ended by the writer's end; a failure only costs reading the log at the next start.
        let _ = indexer.join();
        drop(keeper);
        if written && synced && signed {
            lock.release_clean().during("write", self.layout.lock())
        } else {
            let error =
                io::Error::other("some records could not be written, synced or signed; see the log above");
            Err(error).during("close in order", &self.layout.dir)
        }
    }
}

impl Recorder for Log {
    /// Written or queued when this is called, not when it is first polled, so calls keep their order. Dropping
    /// the future gives up the answer, not the record.
    fn record(
        &self,
        events: Vec<Event>,
        durability: Durability,
    ) -> BoxFuture<'_, Result<Receipt, RecordError>> {
        match self.writer.record(&events, durability) {
            Ok(Answered::Turn(turn)) => Box::pin(turn),
            Ok(Answered::Later(answered)) => {
                Box::pin(async move { answered.await.unwrap_or(Err(RecordError::Stopped)) })
            }
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn submit(&self, events: Vec<Event>) {
        self.writer.submit(&events);
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "the audit log was not closed in order");
        }
    }
}

/// The newest signed head. A new log gets one before its first record, so that a log without one was tampered
/// with.
fn signed_head(layout: &Layout, key: &SigningKey, ambient: &dyn Ambient) -> Result<Checkpoint, StoreError> {
    let refused = |source: NoteError| StoreError::Note { path: layout.head_dir.join("checkpoint"), source };
    if let Some(note) = head::read(layout)? {
        return key.public().open(&note).map_err(refused);
    }
    let (segments, _) = layout.list_segments()?;
    if !segments.is_empty() {
        let what = "it holds records and no signed head".to_owned();
        return Err(StoreError::Damaged { dir: layout.dir.clone(), what });
    }
    let checkpoint = Checkpoint {
        origin: key.origin().to_owned(),
        tip: lockgate_audit::Tip::EMPTY,
        root: lockgate_audit::tree::empty(),
        signed_at: ambient.now(),
    };
    head::write(layout, &key.sign(&checkpoint)).during("write the signed head in", &layout.head_dir)?;
    Ok(checkpoint)
}
