//! What is asked of others than AWS: whether the Internet answers, and whether a neighbour does.

pub mod egress;
pub mod ping;
