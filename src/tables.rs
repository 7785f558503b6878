//! Route tables as a command moves them: who could take one, and changing where one leads.

pub mod candidates;
pub mod moving;
