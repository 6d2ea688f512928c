//! Audit records: canonical encoding, hash chain, checkpoints, verification
