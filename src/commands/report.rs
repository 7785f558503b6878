//! What the reports of several commands have in common.

use std::fmt::Write;

use crate::aws::imds::{Instance, Network};

/// Exit codes; `hanat --help` lists them.
pub mod exit {
    /// Done, or nothing to do.
    pub const DONE: u8 = 0;
    /// Failed.
    pub const FAILED: u8 = 1;
    /// Wrong usage; the number is the one clap ends with.
    pub const USAGE: u8 = 2;
    /// Some tables refused, or all; every other one is done. It is the same the next time.
    pub const REFUSED: u8 = 3;
    /// Some tables failed, others are done. The next time may do better.
    pub const PARTIAL: u8 = 4;
}

/// Where this is, as far as it is known.
pub fn place(instance: Option<&Instance>, network: Option<&Network>) -> String {
    let (Some(instance), Some(network)) = (instance, network) else {
        return String::new();
    };
    format!(
        "{} ({}, {}) in {}, {}\n",
        instance.instance_id,
        network.interface_id,
        network.private_address,
        network.availability_zone,
        network.vpc_id
    )
}

/// Columns as wide as their widest cell; the last one is left ragged.
pub fn align<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or_default()
    };
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            if column + 1 == N {
                text.push_str(cell);
            } else {
                let _ = write!(text, "{cell:<width$}  ", width = width(column));
            }
        }
        text.push('\n');
    }
    text
}
