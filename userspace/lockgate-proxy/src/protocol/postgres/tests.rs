//! Scripted peers: filled in below.
