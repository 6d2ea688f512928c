//! From protocol messages to operations and mask plans: the only crate that knows SQL grammar.
//!
//! [`sql`] turns statement text into facts (class, relations, columns, effects) and into a lineage that says where each
//! result column comes from; [`http`] does the same for requests and masks responses; [`mask`] judges that lineage against a policy's masks and rewrites rows. Nothing here
//! decides whether an operation may pass (lockgate-policy does), reads a socket, a file, a clock or the environment.
//! lockgate-proxy drives it per message, the `lockgate inspect sql` command per line.

pub mod http;
pub mod mask;
pub mod sql;

// Named for its feature alone: without it pg_query decodes no tree deeper than 100 messages (sql/depth.rs).
use prost as _;
