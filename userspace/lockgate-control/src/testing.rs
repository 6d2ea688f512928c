//! Scripted surroundings.
