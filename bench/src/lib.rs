//! Criterion benches (`benches/`) and the side-by-side run (`lockgate-peers`): what lockgate costs, as ratios against a
//! baseline in one run. Nothing here asserts a time.
