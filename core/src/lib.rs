//! What hanat decides: no I/O, no clock, no runtime. What happened comes in, what is to be done comes
//! out.

pub mod change;
pub mod heartbeats;
pub mod ids;
pub mod leaving;
pub mod lifecycle;
pub mod notices;
pub mod routes;
pub mod successors;
