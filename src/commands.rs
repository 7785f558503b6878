//! What is run from a shell, at boot or as a service. Only commands put the effects of the layers below
//! into an order; each has its settings, its report and its words.

pub mod claim;
pub mod cli;
pub mod drain;
mod limits;
pub mod report;
mod settings;
pub mod usage;
pub mod watch;
