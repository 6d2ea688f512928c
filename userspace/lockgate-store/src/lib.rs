//! How records and state rest: append-only segments and sled
