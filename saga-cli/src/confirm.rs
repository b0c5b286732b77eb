//! Nothing is changed that nobody has agreed to.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::{bail, ensure};

/// Asks on the terminal; where there is none, `--yes` is the only way to agree.
pub(crate) fn confirm(question: &str, yes: bool) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    ensure!(
        io::stdin().is_terminal(),
        "nothing was changed: add --yes to do it, or --dry-run to see only what would be done"
    );
    eprint!("{question} [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => bail!("nothing was changed"),
    }
}
