//! `saga draw`: a choreography as a picture, a table or a document.

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use saga_core::manifest::to_table;

use crate::manifests::Manifests;

pub(crate) const LONG: &str = "\
Draw a choreography: pictures, tables and documents

It reads what the services say of themselves and draws the whole. Nothing is asked of a broker or
of a database, and nothing needs to be installed. The same manifests always give the same bytes, so
the result can be committed and compared.";

const EXAMPLES: &str = "\
Examples:
  saga draw order.json payment.json shipping.json
  saga draw --bin target/debug/order --bin target/debug/payment";

/// See [`LONG`].
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct DrawCommand {
    #[command(flatten)]
    manifests: Manifests,
    /// As what
    #[arg(long, short, value_name = "FORMAT", default_value = "mermaid")]
    format: Format,
    /// Write to this file instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// A Mermaid flow chart of the steps
    Mermaid,
    /// A Markdown table with a row per step
    Table,
}

impl DrawCommand {
    pub(crate) async fn run(&self) -> anyhow::Result<ExitCode> {
        let choreography = self.manifests.read().await?;
        let drawn = match self.format {
            Format::Mermaid => choreography.to_mermaid(),
            Format::Table => to_table(&choreography.manifests),
        };
        match &self.output {
            Some(path) => {
                std::fs::write(path, drawn).with_context(|| format!("{} cannot be written", path.display()))?;
            }
            None => std::io::stdout().lock().write_all(drawn.as_bytes()).context("the output cannot be written")?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
