//! The `roost-aggregator` program.

mod clock;
mod config;
mod driver;
mod files;
mod handle;
mod ledger;

fn main() {}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
