//! `saga draw`: a choreography as a picture, a table or a document.

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, ValueEnum};
use saga_choreography::{Choreography, draw::Path};

use crate::manifests::Manifests;

pub(crate) const LONG: &str = "\
Draw a choreography: pictures, tables and documents

It reads what the services say of themselves and draws the whole. No broker and no database is
asked, and no other tool is needed. The same manifests always give the same bytes, so the result
can be committed, and a test can compare it.";

const EXAMPLES: &str = "\
Examples:
  saga draw order.json payment.json shipping.json
  saga draw --bin target/debug/order --bin target/debug/payment --format svg -o flow.svg
  saga draw *.json --format sequence --rejection PaymentDeclined
  saga draw *.json --format asyncapi --participant payment -o payment.asyncapi.json";

/// See [`LONG`].
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct DrawCommand {
    #[command(flatten)]
    manifests: Manifests,
    /// As what
    #[arg(long, short, value_name = "FORMAT", default_value = "mermaid")]
    format: Format,
    /// Only this participant's part; may be repeated
    #[arg(long, value_name = "NAME")]
    participant: Vec<String>,
    /// In a sequence diagram, the path on which a step says no by this event, such as PaymentDeclined
    #[arg(long, value_name = "EVENT", conflicts_with = "every_path")]
    rejection: Option<String>,
    /// Markdown with a sequence diagram of every path: nobody says no, then each no, then each request
    #[arg(long)]
    every_path: bool,
    /// Write to this file instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A Mermaid flow chart of the steps
    Mermaid,
    /// A Mermaid sequence diagram of one path
    Sequence,
    /// A graph for Graphviz
    Dot,
    /// A picture for browsers and documents
    Svg,
    /// A Markdown table with a row per step
    Table,
    /// An AsyncAPI 3.0 document
    Asyncapi,
}

impl DrawCommand {
    pub(crate) async fn run(&self) -> anyhow::Result<ExitCode> {
        ensure!(
            self.format == Format::Sequence || (self.rejection.is_none() && !self.every_path),
            "--rejection and --every-path are for --format sequence"
        );
        let choreography = self.wanted(self.manifests.read().await?)?;
        let drawn = match self.format {
            Format::Mermaid => choreography.to_mermaid(),
            Format::Sequence if self.every_path => choreography.to_sequences()?,
            Format::Sequence => {
                choreography.to_sequence(&self.rejection.clone().map_or(Path::Happy, Path::Rejection))?
            }
            Format::Dot => choreography.to_dot(),
            Format::Svg => choreography.to_svg(),
            Format::Table => choreography.to_table(),
            Format::Asyncapi => serde_json::to_string_pretty(&choreography.to_asyncapi())? + "\n",
        };
        match &self.output {
            Some(path) => {
                std::fs::write(path, drawn).with_context(|| format!("{} cannot be written", path.display()))?;
            }
            None => std::io::stdout().lock().write_all(drawn.as_bytes()).context("the output cannot be written")?,
        }
        Ok(ExitCode::SUCCESS)
    }

    fn wanted(&self, mut choreography: Choreography) -> anyhow::Result<Choreography> {
        let names: Vec<&str> = choreography.manifests.iter().map(|manifest| manifest.participant.as_str()).collect();
        if let Some(unknown) = self.participant.iter().find(|name| !names.contains(&name.as_str())) {
            bail!("--participant {unknown} is none of these: {}", names.join(", "));
        }
        if !self.participant.is_empty() {
            choreography.manifests.retain(|manifest| self.participant.contains(&manifest.participant));
        }
        Ok(choreography)
    }
}
