//! `saga-checker`: reads what the sample sagas left behind, and says what does not hold.

use std::{collections::BTreeMap, fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use saga_checker::{
    databases,
    invariants::{self, Verdict, timeline},
    observed::{Accepted, Observed},
    quiet, record, topics,
};

/// More would hide the first ones.
const SHOWN: usize = 50;

/// Checks what the sample services left behind, and trusts nothing of the toolkit
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
struct Place {
    /// Where order, payment and shipping keep their tables, NAME=URL, separated by spaces. Every user of the machine sees an
    /// argument: where a URL has a password, use the environment
    #[arg(long, env = "CHECKER_DATABASES", hide_env_values = true, value_delimiter = ' ', global = true)]
    databases: Vec<String>,
    /// Kafka's bootstrap servers
    #[arg(long, env = "SAGA_BROKERS", default_value = "127.0.0.1:9092", global = true)]
    brokers: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check the eight invariants; exit code 1 when one does not hold
    Check {
        /// The payment gateway
        #[arg(long, default_value = "http://127.0.0.1:8090")]
        gateway: String,
        /// The orders that customers were told are placed, a JSON object a line: key, order, saga, item, quantity, cents
        #[arg(long, value_name = "FILE")]
        accepted: PathBuf,
    },
    /// Wait until nothing goes on any more; prints how long it took, exit code 1 when it took too long
    Quiet {
        /// The longest wait, in seconds
        #[arg(long, default_value_t = 30.0)]
        within: f64,
        /// The consumer groups, NAME=GROUP, separated by spaces
        #[arg(long, value_delimiter = ' ', default_value = "order=order payment=payment shipping=shipping")]
        groups: Vec<String>,
    },
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let Cli { command, place } = Cli::parse();
    let databases = pairs(&place.databases)?;
    let fine = match command {
        Command::Quiet { within, groups } => {
            let within = Duration::try_from_secs_f64(within).context("not a number of seconds")?;
            let (unrest, took) = quiet::wait(&databases, &place.brokers, &pairs(&groups)?, within).await?;
            let line = serde_json::json!({ "quiet": unrest.is_quiet(), "seconds": took.as_secs_f64(), "left": unrest });
            println!("{line}");
            unrest.is_quiet()
        }
        Command::Check { gateway, accepted } => {
            let mut observed = Observed { accepted: told(&accepted)?, ..Observed::default() };
            observed.gateway = record::read(&gateway).await?;
            databases::read(&databases, &mut observed).await?;
            let brokers = place.brokers;
            observed.events = tokio::task::spawn_blocking(move || topics::read(&brokers)).await??;
            let verdict = invariants::check(&observed);
            print(&observed, &verdict);
            verdict.violations.is_empty()
        }
    };
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn pairs(pairs: &[String]) -> Result<BTreeMap<String, String>> {
    // Without the value, which may hold a password.
    let pair = |text: &String| text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    pairs.iter().map(|text| pair(text).context("expected NAME=VALUE")).collect()
}

fn told(file: &PathBuf) -> Result<Vec<Accepted>> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

fn print(observed: &Observed, verdict: &Verdict) {
    let Verdict { sagas, endings, stuck, repeated, violations } = verdict;
    println!("{sagas} sagas: {endings:?}; {} accepted by customers", observed.accepted.len());
    println!("{} messages, {repeated} of them published more than once", observed.events.len());
    for (saga, why) in stuck {
        println!("needs a person: saga {saga}, {why}");
    }
    for violation in violations.iter().take(SHOWN) {
        println!("VIOLATED {}: {} (saga {})", violation.invariant, violation.what, violation.saga);
        print!("{}", timeline(observed, &violation.saga));
    }
    let mut counts = BTreeMap::new();
    for violation in violations {
        *counts.entry(violation.invariant).or_insert(0) += 1;
    }
    for (invariant, count) in counts {
        println!("{count} x {invariant}");
    }
    println!("{} violations", violations.len());
}
