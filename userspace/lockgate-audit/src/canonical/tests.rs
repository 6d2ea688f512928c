use super::{check, write};
