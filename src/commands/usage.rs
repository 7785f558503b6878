//! How this program was called: its arguments and its variables, or what is wrong with them.

use std::collections::BTreeSet;
use std::ffi::OsString;

use anyhow::{Result, bail};
use clap::{CommandFactory, Parser};

use crate::commands::cli::Cli;

/// What the names of all variables for this program begin with.
const PREFIX: &str = "HANAT_";

/// Names the binary for `make test` and `make bench`, which may leave it in the environment.
const FOR_TESTS: &str = "HANAT_BIN";

/// Names that are less alike than this (Jaro-Winkler, 0 to 1) are no misspelling of each other.
const ALIKE: f64 = 0.8;

/// Wrong usage.
#[derive(Debug)]
pub enum Misuse {
    /// What clap has to say, which is usage, or help that was asked for.
    Arguments(clap::Error),
    /// A variable that no command has.
    Variables(anyhow::Error),
}

/// Reads arguments and variables. All commands' variables are fine for each of them, since all of
/// them read one file of settings.
pub fn parse() -> Result<Cli, Misuse> {
    let cli = Cli::try_parse().map_err(Misuse::Arguments)?;
    let found = std::env::vars_os().map(|(name, _)| name);
    check_variables(found, &variables()).map_err(Misuse::Variables)?;
    Ok(cli)
}

/// Whether these arguments, which may be wrong, are meant for a command.
pub fn are_for(command: &str, arguments: impl Iterator<Item = OsString>) -> bool {
    let cli = Cli::command();
    let commands: Vec<&str> = cli.get_subcommands().map(clap::Command::get_name).collect();
    let mut words = arguments.filter_map(|argument| argument.into_string().ok());
    words
        .find(|word| commands.contains(&word.as_str()))
        .is_some_and(|first| first == command)
}

/// Every command's.
fn variables() -> BTreeSet<String> {
    let cli = Cli::command();
    let commands = std::iter::once(&cli).chain(cli.get_subcommands());
    let variables = commands.flat_map(clap::Command::get_arguments);
    let variables = variables.filter_map(|argument| argument.get_env()?.to_str());
    variables.map(str::to_owned).collect()
}

/// Fails where one of this program's variables is none, which would do something else than what
/// was meant, and tells which one that may have been.
fn check_variables(found: impl Iterator<Item = OsString>, known: &BTreeSet<String>) -> Result<()> {
    let found: BTreeSet<String> = found
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| name.starts_with(PREFIX) && name != FOR_TESTS && !known.contains(name))
        .collect();
    if found.is_empty() {
        return Ok(());
    }
    let said: Vec<String> = found
        .iter()
        .map(|name| match nearest(name, known) {
            Some(nearest) => format!("{name:?} (did you mean {nearest}?)"),
            None => format!("{name:?}"),
        })
        .collect();
    bail!("there is no such variable: {}", said.join(", "));
}

fn nearest<'a>(name: &str, known: &'a BTreeSet<String>) -> Option<&'a String> {
    // What all of them begin with would make all of them alike.
    let rest = |name: &str| name.trim_start_matches(PREFIX).to_owned();
    let likeness = |other: &str| strsim::jaro_winkler(&rest(name), &rest(other));
    let nearest = known
        .iter()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(nearest) >= ALIKE).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn checked(names: &[&str]) -> Result<(), String> {
        let names = names.iter().map(|name| OsString::from(*name));
        check_variables(names, &variables()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_misspelt_is_named_with_what_was_meant() {
        for (misspelt, meant) in [
            ("HANAT_SOURCES", "HANAT_SOURCE"),
            ("HANAT_OWNERTAG", "HANAT_OWNER_TAG"),
            ("HANAT_PROBE_URLS", "HANAT_PROBE_URL"),
            ("HANAT_CONTRACK_MAX", "HANAT_CONNTRACK_MAX"),
            ("HANAT_source", "HANAT_SOURCE"),
        ] {
            let error = checked(&["PATH", misspelt]).unwrap_err();
            assert!(error.contains(misspelt), "{error}");
            if misspelt != "HANAT_source" {
                assert!(error.contains(&format!("did you mean {meant}?")), "{error}");
            }
        }
        let error = checked(&["HANAT_XYZ"]).unwrap_err();
        assert!(!error.contains("did you mean"), "{error}");
    }

    #[test]
    fn every_commands_variables_are_fine() {
        let all = variables();
        for name in [
            "HANAT_SOURCE",
            "HANAT_INTERVAL",
            "HANAT_TO",
            "HANAT_LOG_LEVEL",
        ] {
            assert!(all.contains(name), "{name}");
        }
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        assert_eq!(checked(&all), Ok(()));
        assert_eq!(checked(&["HOME", "HANATX", "XHANAT_A", FOR_TESTS]), Ok(()));
    }

    #[test]
    fn the_command_is_the_first_one_named() {
        let are_for_claim =
            |arguments: &[&str]| are_for("claim", arguments.iter().map(OsString::from));
        assert!(are_for_claim(&["hanat", "claim", "--no-such-flag"]));
        assert!(are_for_claim(&[
            "hanat",
            "--log-format",
            "json",
            "claim",
            "drain"
        ]));
        assert!(!are_for_claim(&["hanat", "drain", "--to", "claim"]));
        assert!(!are_for_claim(&["hanat"]));
    }

    proptest! {
        #[test]
        fn any_name_is_fine_or_told(name: String) {
            let odd = format!("{PREFIX}{name}");
            let fine = variables().contains(&odd) || odd == FOR_TESTS;
            prop_assert_eq!(checked(&[&odd]).is_ok(), fine);
        }
    }
}
