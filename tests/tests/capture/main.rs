//! Capture on the real kernel: what governed processes meet, what others do not notice, what survives
//! a SIGKILL. Needs root; without it every test here fails and says so.

mod attribution;
mod belts;
mod bypass;
mod classify;
mod doctor;
mod egress;
mod failing;
mod harness;
mod interfaces;
mod loading;
mod matrix;
mod names;
mod namespaces;
mod passing;
mod redirect;
mod restart;
