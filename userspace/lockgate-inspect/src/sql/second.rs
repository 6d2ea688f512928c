//! stub
use super::{Statement, parse::Reading};
pub(super) fn compare(_text: &str, _reading: Reading, statements: &mut [Statement]) {
    for s in statements {
        let c = s.class();
        s.hear(c);
    }
}
