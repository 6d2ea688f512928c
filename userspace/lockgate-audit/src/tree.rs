//! The Merkle tree over the chain: that one record is in the log, and that the log only ever grew, proven with a few
//! hashes and without the log.
//!
//! ```text
//! entry(n) = hash(n)                        the 32 bytes of the chain, see `chain`: a record can be longer than an entry may be
//! leaf(n)  = SHA-256(0x00 ‖ entry(n))
//! node     = SHA-256(0x01 ‖ left ‖ right)
//! ```
//!
//! The tree is that of RFC 6962, section 2.1, counted from leaf 0: record `n` is leaf `n - 1`. Its root is what a
//! checkpoint signs, so tools for transparency logs can check it. Verification is that of RFC 9162, sections 2.1.3.2
//! and 2.1.4.2.
//!
//! Pure: where hashes rest is the caller's ([`Nodes`]).

use crate::chain::ChainHash;
use sha2::{Digest as _, Sha256};

/// A node of the tree, or its root.
pub type Hash = [u8; 32];

/// Hashes of a tree that rest somewhere.
pub trait Nodes {
    /// Why one cannot be had.
    type Error;

    /// The root of the whole subtree of 2^`level` leaves that begins with leaf `index` · 2^`level`.
    ///
    /// # Errors
    /// When it cannot be had.
    fn node(&self, level: u32, index: u64) -> Result<Hash, Self::Error>;
}

/// A leaf, of the hash of a record.
pub fn leaf(entry: &ChainHash) -> Hash {
    Sha256::new().chain_update([0]).chain_update(entry.0).finalize().into()
}

/// What is above two nodes.
pub fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// The root of no leaves.
pub fn empty() -> Hash {
    Sha256::digest([]).into()
}

/// The root of a tree, from the whole subtrees that it is made of. Takes leaves in order, in memory that does not grow
/// beyond 64 hashes.
#[derive(Clone, Debug, Default)]
pub struct Frontier {
    size: u64,
    /// Roots of whole subtrees, the largest first: one for each bit of the size.
    peaks: Vec<Hash>,
}

impl Frontier {
    /// How many leaves it has taken.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Takes the next leaf.
    pub fn push(&mut self, leaf: Hash) {
        let mut top = leaf;
        // One subtree is made whole for each bit that the count carries over.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                top = node(&left, &top);
            }
        }
        self.peaks.push(top);
        self.size += 1;
    }

    /// The root.
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else { return empty() };
        peaks.fold(*last, |right, left| node(left, &right))
    }
}

/// The root of the first `size` leaves.
///
/// # Errors
/// What [`Nodes::node`] fails with.
pub fn root<N: Nodes>(nodes: &N, size: u64) -> Result<Hash, N::Error> {
    if size == 0 { Ok(empty()) } else { subtree(nodes, 0, size) }
}

/// That leaf `index` is in the tree of the first `size` leaves: the nodes beside its way to the root, from the leaf up.
/// Nothing when it is not.
///
/// # Errors
/// What [`Nodes::node`] fails with.
pub fn inclusion<N: Nodes>(nodes: &N, index: u64, size: u64) -> Result<Vec<Hash>, N::Error> {
    let mut path = Vec::new();
    if index >= size {
        return Ok(path);
    }
    let (mut begin, mut end) = (0, size);
    while end - begin > 1 {
        let middle = begin + split(end - begin);
        if index < middle {
            path.push(subtree(nodes, middle, end)?);
            end = middle;
        } else {
            path.push(subtree(nodes, begin, middle)?);
            begin = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// That the tree of the first `size` leaves goes on from the tree of the first `old` (RFC 6962, section 2.1.2). Nothing
/// when there is nothing to prove.
///
/// # Errors
/// What [`Nodes::node`] fails with.
pub fn consistency<N: Nodes>(nodes: &N, old: u64, size: u64) -> Result<Vec<Hash>, N::Error> {
    let mut path = Vec::new();
    if old == 0 || old >= size {
        return Ok(path);
    }
    // Whether the old tree's part is one whole subtree of its own, so that who checks has its hash already.
    let mut known = true;
    let (mut begin, mut end) = (0, size);
    while old < end {
        let middle = begin + split(end - begin);
        if old <= middle {
            path.push(subtree(nodes, middle, end)?);
            end = middle;
        } else {
            path.push(subtree(nodes, begin, middle)?);
            begin = middle;
            known = false;
        }
    }
    if !known {
        path.push(subtree(nodes, begin, end)?);
    }
    path.reverse();
    Ok(path)
}

/// Whether `leaf` is leaf `index` of the tree of `size` leaves with this root.
pub fn includes(root: &Hash, size: u64, leaf: &Hash, index: u64, path: &[Hash]) -> bool {
    if index >= size {
        return false;
    }
    let (mut at, mut last, mut hash) = (index, size - 1, *leaf);
    for beside in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            hash = node(beside, &hash);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            hash = node(&hash, beside);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && hash == *root
}

/// Whether the tree of `size` leaves with root `new` goes on from that of `old_size` leaves with root `old`.
pub fn extends(old: &Hash, old_size: u64, new: &Hash, size: u64, path: &[Hash]) -> bool {
    if old_size > size {
        return false;
    }
    if old_size == size {
        return path.is_empty() && old == new;
    }
    if old_size == 0 {
        return path.is_empty() && *old == empty();
    }
    let mut path = path.iter();
    // A whole subtree's hash is not told again.
    let first = if old_size.is_power_of_two() { Some(old) } else { path.next() };
    let Some(first) = first else { return false };
    let (mut at, mut last) = (old_size - 1, size - 1);
    while at & 1 == 1 {
        (at, last) = (at >> 1, last >> 1);
    }
    let (mut from_old, mut from_new) = (*first, *first);
    for beside in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            from_old = node(beside, &from_old);
            from_new = node(beside, &from_new);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            from_new = node(&from_new, beside);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && from_old == *old && from_new == *new
}

/// The largest power of two below `count`, which is at least 2.
fn split(count: u64) -> u64 {
    1 << (u64::BITS - 1 - (count - 1).leading_zeros())
}

/// The root over the leaves from `begin` to before `end`. Such a range always begins at a multiple of its largest whole
/// subtree.
fn subtree<N: Nodes>(nodes: &N, begin: u64, end: u64) -> Result<Hash, N::Error> {
    let count = end - begin;
    if count.is_power_of_two() {
        let level = count.trailing_zeros();
        return nodes.node(level, begin >> level);
    }
    let middle = begin + split(count);
    Ok(node(&subtree(nodes, begin, middle)?, &subtree(nodes, middle, end)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    /// The definitions of RFC 6962, word for word, over leaves in memory.
    fn mth(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty(),
            [one] => *one,
            many => {
                let k = split(many.len() as u64) as usize;
                node(&mth(&many[..k]), &mth(&many[k..]))
            }
        }
    }

    struct Memory(Vec<Hash>);

    impl Nodes for Memory {
        type Error = Infallible;

        fn node(&self, level: u32, index: u64) -> Result<Hash, Infallible> {
            let (begin, count) = ((index << level) as usize, 1 << level);
            Ok(mth(&self.0[begin..begin + count]))
        }
    }

    fn memory(count: u64) -> Memory {
        let entry = |n: u64| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_be_bytes());
            leaf(&ChainHash(bytes))
        };
        Memory((0..count).map(entry).collect())
    }

    fn hex(hash: Hash) -> String {
        hex::encode(hash)
    }

    #[test]
    fn small_trees_have_the_hashes_that_others_compute() {
        // SHA-256 of nothing; and a leaf and a node computed with `openssl dgst -sha256`.
        assert_eq!(hex(empty()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        let zero = leaf(&ChainHash([0; 32]));
        assert_eq!(hex(zero), "7f9c9e31ac8256ca2f258583df262dbc7d6f68f2a03043d5c99a4ae5a7396ce9");
        assert_eq!(
            hex(node(&zero, &zero)),
            "a4b8c7873a49d5d53af0b2a0202486483020d95935d763edc4ef2f602200d8de"
        );
    }

    #[test]
    fn every_proof_of_every_small_tree_holds_and_no_other() {
        let all = memory(70);
        let mut frontier = Frontier::default();
        for size in 0..=70_u64 {
            let top = mth(&all.0[..size as usize]);
            assert_eq!(root(&all, size), Ok(top));
            assert_eq!((frontier.root(), frontier.size()), (top, size));
            for index in 0..size {
                let path = inclusion(&all, index, size).unwrap();
                let own = all.0[index as usize];
                assert!(includes(&top, size, &own, index, &path), "{index} in {size}");
                assert!(!includes(&top, size, &own, (index + 1) % size.max(2), &path), "{index} in {size}");
                assert!(!includes(&top, size, &all.0[(index as usize + 1) % 70], index, &path));
                let longer = [&path[..], &[top]].concat();
                assert!(!includes(&top, size, &own, index, &longer), "{index} in {size}");
                if let Some((_, shorter)) = path.split_last() {
                    assert!(!includes(&top, size, &own, index, shorter), "{index} in {size}");
                }
            }
            for old in 0..=size {
                let before = mth(&all.0[..old as usize]);
                let path = consistency(&all, old, size).unwrap();
                assert!(extends(&before, old, &top, size, &path), "{old} to {size}");
                assert!(!extends(&leaf(&ChainHash([9; 32])), old, &top, size, &path), "{old} to {size}");
                assert!(!extends(&before, old, &leaf(&ChainHash([9; 32])), size, &path) || old == 0);
                assert!(!extends(&before, old, &top, size, &[&path[..], &[top]].concat()));
            }
            if let Some(next) = all.0.get(size as usize) {
                frontier.push(*next);
            }
        }
    }

    #[test]
    fn nothing_is_proven_of_what_is_not_there() {
        let all = memory(5);
        assert_eq!(inclusion(&all, 5, 5), Ok(Vec::new()));
        assert_eq!(consistency(&all, 6, 5), Ok(Vec::new()));
        assert!(!includes(&empty(), 0, &empty(), 0, &[]));
        assert!(!extends(&empty(), 6, &empty(), 5, &[]));
        assert!(!includes(&all.0[0], u64::MAX, &all.0[0], u64::MAX - 1, &[all.0[1]; 70]));
    }
}
