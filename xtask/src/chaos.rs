//! `cargo xtask chaos`: the real binaries on a real Kafka and PostgreSQL, while everything is broken that can break.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use saga_tests::{
    chaos::run::{Options, Report, run as play},
    support::Guarded,
};

/// A clean stop takes no longer, whatever goes on.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Break everything that can break while customers order, and check what is left with a checker of its own
///
/// Starts Kafka (needs Java) and PostgreSQL, with a proxy before each, and the debug binaries of the services. Kills, freezes and
/// stops processes, kills both servers, cuts connections at COMMIT and at produce requests, and breaks the gateway: all
/// drawn from the seed. Then `saga-checker`, which shares no code with the toolkit, reads what is left.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long to break things
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// Draws faults and customers
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How fast customers order
    #[arg(long, default_value_t = 20.0, value_name = "R")]
    orders_per_second: f64,
    /// Also let a process die at each labelled point, so many times; builds the services with the feature `harness`
    #[arg(long, value_name = "TIMES", default_value_t = 0, default_missing_value = "5", num_args = 0..=1)]
    points: usize,
    /// How many clean stops to measure after the faults
    #[arg(long, default_value_t = 54)]
    stops: usize,
    /// Only the faults: no service is killed on its own to measure the time to quiet, and no stop is measured
    #[arg(long, conflicts_with = "stops")]
    brief: bool,
    /// Everything has to be quiet so many seconds after the last fault
    #[arg(long, default_value_t = 30)]
    quiet_within: u64,
    /// Where the logs, the journal of the faults and the customers' list are kept [default: a directory below target/chaos]
    #[arg(long)]
    directory: Option<PathBuf>,
}

/// Exit code 0 when every invariant holds, everything came to rest in time, and every clean stop was one.
pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    // Whoever says where the binaries are has built them.
    if std::env::var_os("SAGA_BIN_DIR").is_none() {
        let harness: &[&str] = if args.points > 0 { &["--features", "saga-services/harness"] } else { &[] };
        let mut build = crate::cargo::cargo(&[&["build", "--workspace", "--bins"], harness].concat());
        ensure!(Guarded::spawn(&mut build)?.wait().await?.success(), "the services do not build");
    }
    let options = Options {
        chaos: Duration::try_from_secs_f64(args.minutes * 60.0).context("not a number of minutes")?,
        seed: args.seed,
        rate: args.orders_per_second,
        kills: !args.brief,
        points: args.points,
        stops: if args.brief { 0 } else { args.stops },
        quiet_within: Duration::from_secs(args.quiet_within),
        stop_within: STOP_LIMIT,
        directory: directory(args.directory, args.seed)?,
    };
    Ok(if held(&options).await? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Half a minute of it, with the binaries beside this one, for those who check everything. How soon it is quiet and how long a stop
/// takes amid faults depends on how busy the machine is, so that only a hang counts here.
pub(crate) async fn smoke() -> Result<bool> {
    let (seed, directory) = (1, directory(None, 1)?);
    let options = Options {
        chaos: Duration::from_secs(30),
        seed,
        rate: 10.0,
        kills: false,
        points: 0,
        stops: 0,
        quiet_within: Duration::from_secs(200),
        stop_within: Duration::from_secs(15),
        directory,
    };
    held(&options).await
}

fn directory(asked: Option<PathBuf>, seed: u64) -> Result<PathBuf> {
    let directory = asked.unwrap_or_else(|| {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/chaos");
        target.join(format!("seed-{seed}-{}", std::process::id()))
    });
    std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    Ok(directory.canonicalize()?)
}

async fn held(options: &Options) -> Result<bool> {
    println!("logs, journal.jsonl and accepted.jsonl: {}", options.directory.display());
    let report = play(options).await?;
    print(options, &report);
    let failures = failures(options, &report);
    for failure in &failures {
        println!("FAILED: {failure}");
    }
    Ok(failures.is_empty())
}

fn print(options: &Options, report: &Report) {
    println!(
        "\nseed {}, {:.1} minutes, {} orders a second",
        options.seed,
        options.chaos.as_secs_f64() / 60.0,
        options.rate
    );
    for (kind, count) in &report.faults {
        println!("{count:>5}  {kind}");
    }
    let (commits, produces) = report.sprung;
    println!("{commits} connections cut at a COMMIT, {produces} at a produce request");
    let tally = &report.tally;
    println!(
        "{} orders accepted, {} requests repeated, cancellations {:?}",
        tally.accepted, tally.repeated, tally.cancellations
    );
    println!("quiet {} after the last fault", seconds(report.quiet));
    for (name, quiet) in &report.after_kill {
        println!("quiet {} after kill -9 of {name} under load", seconds(*quiet));
    }
    if options.points > 0 {
        println!("died at each labelled point: {:?}; quiet {} later", report.points, seconds(report.after_points));
    }
    for in_peace in [false, true] {
        let count = report.stops.iter().filter(|stop| stop.in_peace == in_peace).count();
        let when = if in_peace { "under load" } else { "amid faults" };
        println!("{count} stops {when}, p99 {}", seconds(report.p99_of_stops(in_peace)));
    }
    println!("{} processes ended by themselves", report.exits.len());
    for exit in &report.exits {
        println!("       {exit}");
    }
    println!("{}", report.verdict);
}

fn seconds(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "never".to_owned(), |duration| format!("{:.1} s", duration.as_secs_f64()))
}

fn failures(options: &Options, report: &Report) -> Vec<String> {
    let mut failures: Vec<String> = report.tally.complaints.clone();
    if !report.holds {
        failures.push("an invariant does not hold".to_owned());
    }
    if report.quiet.is_none_or(|quiet| quiet > options.quiet_within) {
        failures.push(format!("not quiet within {:?} of the last fault", options.quiet_within));
    }
    if report.after_points.is_none() || report.after_kill.values().any(Option::is_none) {
        failures.push("never quiet again after a process had died".to_owned());
    }
    for stop in
        report.stops.iter().filter(|stop| stop.took > options.stop_within || (stop.in_peace && stop.code != Some(0)))
    {
        failures.push(format!("{} stopped after {:?} with code {:?}", stop.instance, stop.took, stop.code));
    }
    failures
}
