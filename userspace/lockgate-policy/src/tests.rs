//! What policies mean.
