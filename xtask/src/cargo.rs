//! Cargo, called by a program that cargo runs.

use std::{ffi::OsString, path::Path};

use saga_tests::support::{Guarded, Stop};
use tokio::process::Command;

/// A cargo command in this workspace, with the cargo that runs us.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Guarded::command(program, Stop::default());
    command.args(arguments).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    // What cargo tells this program about its package. Build scripts look at the same variables, so that leaving them
    // would build their packages again here, and once more at the next cargo command by hand.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}
