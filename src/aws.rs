//! AWS, as this program reaches it from an instance: IMDS, EC2 and Auto Scaling by one HTTP client, in
//! this project's own types, and what stands in the way of that.

pub mod autoscaling;
mod clients;
mod credentials;
pub mod ec2;
pub mod errors;
pub mod http;
pub mod imds;
pub mod lists;
mod pace;
pub mod patience;
pub mod session;
pub mod troubles;
