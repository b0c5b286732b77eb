//! `saga diff`: whether a change of manifests is safe for what runs.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use saga_choreography::{Choreography, diff};

use crate::{manifests::Manifests, text::plain};

pub(crate) const LONG: &str = "\
Say whether a change of manifests is safe for what runs, and in which order to deploy it

While a change is rolled out, topics hold events that the old versions wrote, ledgers hold what they
recorded, and old and new run side by side. It compares two versions of a choreography: can
everybody read what comes to them, do sagas under way still come to an end, and can what they did
still be taken back? Whether the new version is sound by itself is what `saga verify` says.";

const EXAMPLES: &str = "\
Examples:
  saga diff order-1.4.json order-1.5.json      one service, by itself
  saga diff main/ branch/                      all *.json of two directories
  saga diff --old main/*.json --new branch/*.json

Exit codes:
  0  safe for sagas under way, when deployed in the order that is printed
  1  unsafe
  2  the command line or a manifest cannot be used";

/// See [`LONG`].
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct DiffCommand {
    /// What runs now, and what is to run: each a file of manifests, or a directory of such files
    #[arg(value_name = "OLD NEW", num_args = 0..=2, conflicts_with_all = ["old", "new"])]
    both: Vec<PathBuf>,
    /// What runs now: files or directories; may be repeated
    #[arg(long, value_name = "PATH", num_args = 1.., requires = "new")]
    old: Vec<PathBuf>,
    /// What is to run: files or directories; may be repeated
    #[arg(long, value_name = "PATH", num_args = 1.., requires = "old")]
    new: Vec<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

impl DiffCommand {
    pub(crate) async fn run(&self) -> anyhow::Result<ExitCode> {
        let (old, new) = match self.both.as_slice() {
            [old, new] => (read(std::slice::from_ref(old)).await?, read(std::slice::from_ref(new)).await?),
            [] if !self.old.is_empty() => (read(&self.old).await?, read(&self.new).await?),
            _ => bail!("which versions? Name two files or directories, the old one first, or give --old and --new"),
        };
        let diff = diff::diff(&old, &new);
        let shown = if self.json {
            serde_json::to_string_pretty(&diff)? + "\n"
        } else {
            // Names are somebody else's text.
            diff.to_string().lines().map(|line| plain(line, 2_000) + "\n").collect()
        };
        std::io::stdout().lock().write_all(shown.as_bytes()).context("the output cannot be written")?;
        Ok(if diff.safe { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

async fn read(paths: &[PathBuf]) -> anyhow::Result<Choreography> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() { files.extend(inside(path)?) } else { files.push(path.clone()) }
    }
    Manifests { files, bin: vec![] }.read().await
}

/// The `*.json` of a directory, by name.
fn inside(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = entries.with_context(|| format!("{} cannot be read", directory.display()))?;
    let mut files: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort_unstable();
    ensure!(!files.is_empty(), "there is no *.json in {}", directory.display());
    Ok(files)
}
