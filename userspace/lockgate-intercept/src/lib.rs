//! The kernel side.
mod abi;
mod btf;
mod cgroup;
mod denial;
mod error;
mod flow;
mod govern;
mod interceptor;
mod listener;
mod mount;
mod object;
mod pin;
mod run;
mod sys;
mod target;
mod watch;
mod workload;

pub use denial::{Counters, Denial};
pub use error::InterceptError;
pub use govern::Governed;
pub use interceptor::{Health, Interceptor, Settings, detach};
pub use pin::Instance;
pub use run::RunCgroup;
pub use target::TargetNet;
