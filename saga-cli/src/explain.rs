//! `saga explain`: what a code of `saga verify` means.

use std::{io::Write as _, process::ExitCode};

use anyhow::Context as _;
use clap::Args;
use saga_choreography::{Code, explain};

use crate::verify::code;

pub(crate) const LONG: &str = "\
Say what a finding of `verify` means, and how to mend it

With a code: what it means, an example that is wrong in this way, what it does in production, and
how to mend it. Without: every code on a line.";

/// See [`LONG`].
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  saga explain SG007\n  saga explain")]
pub(crate) struct ExplainCommand {
    /// Such as SG007
    #[arg(value_parser = code)]
    code: Option<Code>,
}

impl ExplainCommand {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let text = self.code.map_or_else(explain::list, explain::explain);
        std::io::stdout().lock().write_all(text.as_bytes()).context("the output cannot be written")?;
        Ok(ExitCode::SUCCESS)
    }
}
