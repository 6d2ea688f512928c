//! The thread that keeps the tree, signs heads and puts them where they belong, away from everybody who waits for a record.
//!
//! It is only ever handed tips that are synced.

use crate::{
    error::{During, StoreError},
    head,
    layout::Layout,
    syncer::Syncer,
    tree::Tree,
};
use lockgate_audit::{Checkpoint, SigningKey, Tip, tree::Hash};
use lockgate_model::port::Ambient;
use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

/// How often a head is also kept in the history: a rewritten log is dated by the last kept head that it meets.
const REMEMBER_EVERY: Duration = Duration::from_secs(60);

/// When a head that could not be written is tried again. Records do not depend on it.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// What the signing thread owns.
pub(crate) struct Signer {
    pub(crate) layout: Layout,
    pub(crate) key: SigningKey,
    pub(crate) ambient: Arc<dyn Ambient>,
    tree: Tree,
    syncer: Arc<Syncer>,
    tips: Receiver<Tip>,
    /// The last head that was written and is not in the history.
    unkept: Option<String>,
    kept_at: Option<Instant>,
}

impl Signer {
    /// With the end that tips are handed to; dropping that ends the thread.
    pub(crate) fn new(
        layout: Layout,
        key: SigningKey,
        ambient: Arc<dyn Ambient>,
        tree: Tree,
        syncer: Arc<Syncer>,
    ) -> (Self, SyncSender<Tip>) {
        let (heads, tips) = sync_channel(1);
        (Self { layout, key, ambient, tree, syncer, tips, unkept: None, kept_at: None }, heads)
    }

    /// The thread; true when the last tip it was handed is signed.
    pub(crate) fn run(mut self) -> bool {
        let mut unsigned: Option<Tip> = None;
        loop {
            let received = match unsigned {
                None => self.tips.recv().map_err(RecvTimeoutError::from),
                Some(_) => self.tips.recv_timeout(RETRY_EVERY),
            };
            if let Ok(tip) = received {
                unsigned = Some(tip);
            }
            unsigned = unsigned.filter(|tip| !self.sign(*tip));
            let ended = matches!(received, Err(RecvTimeoutError::Disconnected));
            self.keep(ended);
            if ended {
                return unsigned.is_none();
            }
        }
    }

    fn sign(&mut self, tip: Tip) -> bool {
        let origin = self.key.origin().to_owned();
        let root = match self.grow(tip) {
            Ok(root) => root,
            Err(error) => {
                tracing::warn!(%error, "the tree of the audit log cannot be kept; no head is signed until it can");
                return false;
            }
        };
        let note = self.key.sign(&Checkpoint { origin, tip, root, signed_at: self.ambient.now() });
        match head::write(&self.layout, &note) {
            Ok(()) => {
                self.unkept = Some(note);
                true
            }
            Err(error) => {
                tracing::warn!(%error, dir = %self.layout.head_dir.display(), "the signed head cannot be written");
                false
            }
        }
    }

    /// Takes into the tree what was written up to `tip`; its root then.
    fn grow(&mut self, tip: Tip) -> Result<Hash, StoreError> {
        let entries = self.syncer.entries(tip.seq);
        let before = tip.seq.saturating_sub(entries.len() as u64);
        if self.tree.size() < before {
            self.tree.catch_up(&self.layout, before)?;
        }
        // What a try before this one took in is not taken in twice.
        let known = usize::try_from(self.tree.size().saturating_sub(before)).unwrap_or(usize::MAX);
        let grown = self.tree.append(entries.get(known..).unwrap_or_default());
        let root = grown.and_then(|()| self.tree.root(tip.seq));
        root.during("keep", self.layout.tree())
    }

    fn keep(&mut self, now: bool) {
        if !now && self.kept_at.is_some_and(|at| at.elapsed() < REMEMBER_EVERY) {
            return;
        }
        let Some(note) = self.unkept.take() else { return };
        self.kept_at = Some(Instant::now());
        if let Err(error) = head::remember(&self.layout, &note) {
            tracing::warn!(%error, dir = %self.layout.head_dir.display(), "a signed head cannot be kept");
        }
    }
}
