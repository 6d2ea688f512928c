//! The shared store on a real PostgreSQL: the same behaviour as the embedded one's, what happens when the server goes
//! away, its migrations, and what a stolen credential can do with it: nothing.

mod agent;
mod behaviour;
mod documents;
mod drain;
mod migrations;
mod moving;
mod place;
mod privileges;
mod requests;
