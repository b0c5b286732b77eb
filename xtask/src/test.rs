//! `cargo xtask test`: every check of this workspace, against a real Kafka, a real PostgreSQL and a real Jaeger.
//!
//! The invariant: the closing summary tells the truth about what was *not* checked, and under `CI=true` nothing may be
//! left unchecked because something is not installed. One exception: a Jaeger has to be built where there is none, and a
//! system's own Go is often too old for it. Without Go its check is named among what did not run, and that is no failure.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use saga_tests::support::{
    Guarded, KAFKA_VARIABLE, Kafka, Missing, POSTGRES_VARIABLE, Postgres, SKIPS_VARIABLE, everything_is_required,
    jaeger_binary,
};
use tokio::process::Command;

use crate::cargo::cargo;

use crate::chaos;
use crate::jaeger;

/// Check everything: formatting, lints, all tests against a real Kafka and a real PostgreSQL, traces in a real Jaeger
///
/// Starts Kafka and PostgreSQL on free ports of 127.0.0.1 and stops them at the end. Each comes from the first of these that is
/// there: the environment (SAGA_TEST_KAFKA=host:port, SAGA_TEST_POSTGRES=postgres://user:password@host:port/database); a
/// Docker engine; Java with Maven for Kafka, server binaries or Maven for PostgreSQL. Where there is none, everything
/// else runs, and the summary says what did not run and how to install what is missing. With CI=true or
/// SAGA_TEST_REQUIRE=1 that is a failure. For Jaeger see `cargo xtask jaeger-check`: without it and without Go its check
/// does not run, and that is no failure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave out formatting and lints
    #[arg(long)]
    no_lint: bool,
    /// Run only the tests whose name contains this
    #[arg(long, value_name = "FILTER")]
    only: Option<String>,
    /// Arguments for the test programs, such as --nocapture
    #[arg(last = true, value_name = "ARGS")]
    arguments: Vec<String>,
}

/// The name of the short run of chaos.
const CHAOS: &str = "chaos, half a minute";
/// The name of the check with Jaeger.
const TRACES: &str = "traces in Jaeger";

/// Exit code 0 when everything that ran passed, and nothing that is required is missing.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut report = Report::new();
    let clock = report.clock;
    // Beside everything else, because a Jaeger that has to be built takes minutes.
    let binary = async {
        match &args.only {
            Some(_) => Ok(None),
            None => Ok(Some(jaeger_binary(&|line| clock.say(line)).await)),
        }
    };
    let (binary, Built { built, can_crash }) = tokio::try_join!(binary, with_servers(&args, &mut report))?;
    match (&args.only, built, can_crash) {
        (Some(_), ..) => report.not_run.push(format!("{CHAOS} (--only)")),
        (None, false, _) => report.not_run.push(format!("{CHAOS}, as the services do not build")),
        (None, true, false) => {
            report.not_run.push(format!("{CHAOS}, as Kafka and PostgreSQL are no processes that were started here"));
        }
        (None, true, true) => report.break_everything().await,
    }
    match binary {
        None => report.not_run.push(format!("{TRACES} (--only)")),
        Some(Err(missing)) => report.no_jaeger(missing),
        Some(Ok(_)) if !built => report.not_run.push(format!("{TRACES}, as the services do not build")),
        // Now, when nothing else needs the machine and the services are built.
        Some(Ok(binary)) => report.look_at_traces(&binary).await,
    }
    Ok(report.close())
}

/// What the later checks need to know.
struct Built {
    /// Whether the services build.
    built: bool,
    /// Whether there is what it takes to kill Kafka and PostgreSQL.
    can_crash: bool,
}

/// Everything that chaos and Jaeger have no part in.
async fn with_servers(args: &Args, report: &mut Report) -> anyhow::Result<Built> {
    let clock = report.clock;
    let progress = |line: &str| clock.say(line);
    let up = |server: &dyn std::fmt::Display| clock.say(&server.to_string());
    let servers = async {
        tokio::join!(async { Kafka::start(&progress).await.inspect(|kafka| up(kafka)) }, async {
            Postgres::start(&progress).await.inspect(|postgres| up(postgres))
        },)
    };
    // While the servers start, which takes little but waiting, what does not need them.
    let prepare = async {
        if args.no_lint {
            report.not_run.push("formatting and lints (--no-lint)".to_owned());
        } else {
            report.run("formatting", cargo(&["fmt", "--all", "--check"])).await?;
            let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
            report.run("lints", cargo(&clippy)).await?;
        }
        // All binaries, though tests start only those of the services: with one package alone cargo chooses other
        // features for the dependencies, and would compile them and this workspace a second time.
        let build = cargo(&["build", "--workspace", "--bins"]);
        report.run("build of the services", build).await
    };
    let ((kafka, postgres), built) = tokio::join!(servers, prepare);

    let skips = Skips::new();
    let mut tests = cargo(&["test", "--workspace", "--no-fail-fast"]);
    tests.env(SKIPS_VARIABLE, &skips.0);
    tests.args(&args.only).arg("--").args(&args.arguments);
    tell(&mut tests, KAFKA_VARIABLE, kafka.as_ref().ok().map(Kafka::address));
    tell(&mut tests, POSTGRES_VARIABLE, postgres.as_ref().ok().map(Postgres::url));
    let built = built?;
    if built {
        report.run("tests", tests).await?;
        match args.only {
            None => _ = report.run("simulation", cargo(&["xtask", "simulate"])).await?,
            Some(_) => report.not_run.push("the simulation (--only)".to_owned()),
        }
    } else {
        report.not_run.push("the tests, as the services do not build".to_owned());
    }
    if let Some(filter) = &args.only {
        report.not_run.push(format!("tests whose name does not contain {filter} (--only)"));
    }
    report.not_run.extend(skips.read());
    report.missing.extend([kafka.as_ref().err(), postgres.as_ref().err()].into_iter().flatten().cloned());

    let can_crash = kafka.as_ref().is_ok_and(Kafka::can_crash) && postgres.as_ref().is_ok_and(Postgres::can_crash);
    // Both begin to stop before either is waited for.
    let (mut kafka, mut postgres) = (kafka.ok(), postgres.ok());
    kafka.iter_mut().for_each(Kafka::begin_to_stop);
    postgres.iter_mut().for_each(Postgres::begin_to_stop);
    drop((kafka, postgres));
    Ok(Built { built, can_crash })
}

/// Tells the tests where a server is, or that there is none: a variable that names a dead server is not passed on.
fn tell(command: &mut Command, variable: &str, value: Option<&str>) {
    match value {
        Some(value) => command.env(variable, value),
        None => command.env_remove(variable),
    };
}

/// The file to which skipped tests add their names.
struct Skips(PathBuf);

impl Skips {
    fn new() -> Self {
        let name = format!("saga-skips-{}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn read(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.0).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Skips {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0); // it is only there when a test was skipped
    }
}

#[derive(Debug, Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn say(self, line: &str) {
        eprintln!("[{:>4}s] {line}", self.0.elapsed().as_secs());
    }
}

/// What ran, how it went, and what did not run.
struct Report {
    clock: Clock,
    ran: Vec<(&'static str, bool, Duration)>,
    not_run: Vec<String>,
    missing: Vec<Missing>,
}

impl Report {
    fn new() -> Self {
        Self { clock: Clock(Instant::now()), ran: Vec::new(), not_run: Vec::new(), missing: Vec::new() }
    }

    /// Runs a command to its end, and returns whether it succeeded.
    async fn run(&mut self, name: &'static str, mut command: Command) -> anyhow::Result<bool> {
        self.clock.say(name);
        let begin = Instant::now();
        let passed = Guarded::spawn(&mut command)?.wait().await?.success();
        self.ran.push((name, passed, begin.elapsed()));
        Ok(passed)
    }

    async fn break_everything(&mut self) {
        self.clock.say(CHAOS);
        let begin = Instant::now();
        let held = chaos::smoke().await;
        if let Err(error) = &held {
            eprintln!("error: {error:#}");
        }
        self.ran.push((CHAOS, held.is_ok_and(|held| held), begin.elapsed()));
    }

    async fn look_at_traces(&mut self, binary: &Path) {
        self.clock.say(TRACES);
        let begin = Instant::now();
        let checked = jaeger::check(binary).await;
        if let Err(error) = &checked {
            eprintln!("error: {error:#}");
        }
        self.ran.push((TRACES, checked.is_ok(), begin.elapsed()));
    }

    /// Something to install is a gap, also where everything is required; else it is there and does not work.
    fn no_jaeger(&mut self, missing: Missing) {
        match &missing.install {
            Some(line) => {
                self.not_run.push(format!("{TRACES}, because {}\n    to install it: {line}", missing.why));
            }
            None => self.missing.push(missing),
        }
    }

    fn passed(&self, required: bool) -> bool {
        let checks = self.ran.iter().all(|(_, passed, _)| *passed);
        // Nothing to install: it is all there and yet it does not work.
        let servers = self.missing.iter().all(|missing| missing.install.is_some() && !required);
        checks && servers
    }

    fn summary(&self, required: bool) -> String {
        let mut lines = vec!["Ran:".to_owned()];
        for (name, passed, took) in &self.ran {
            let verdict = if *passed { "ok" } else { "FAILED" };
            lines.push(format!("  {verdict:<6} {name} ({} s)", took.as_secs()));
        }
        if self.not_run.is_empty() && self.missing.is_empty() {
            lines.push("Everything ran.".to_owned());
        }
        if !self.not_run.is_empty() {
            lines.push("NOT RUN:".to_owned());
            lines.extend(self.not_run.iter().map(|what| format!("  {what}")));
        }
        for missing in &self.missing {
            lines.push(format!("MISSING: {}, because {}", missing.what, missing.why));
            lines.extend(missing.install.iter().map(|line| format!("  to install it: {line}")));
        }
        lines.push(if self.passed(required) { "PASSED" } else { "FAILED" }.to_owned());
        lines.join("\n")
    }

    fn close(&self) -> ExitCode {
        let required = everything_is_required();
        eprintln!();
        self.clock.say("done");
        eprintln!("{}", self.summary(required));
        if self.passed(required) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(passed: bool, install: Option<&str>) -> Report {
        let mut report = Report::new();
        report.ran.push(("tests", passed, Duration::from_secs(3)));
        let install = install.map(str::to_owned);
        report.missing.push(Missing { what: "Kafka".into(), why: "no Java".into(), install });
        report
    }

    #[test]
    fn what_is_not_installed_is_a_failure_only_where_it_is_required() {
        let report = report(true, Some("apt-get install -y maven"));
        assert!(report.passed(false) && !report.passed(true));
        let summary = report.summary(false);
        assert!(summary.contains("MISSING: Kafka, because no Java\n  to install it: apt-get install -y maven"));
    }

    #[test]
    fn a_server_that_is_installed_and_does_not_start_is_a_failure() {
        assert!(!report(true, None).passed(false));
    }

    #[test]
    fn a_failed_check_is_a_failure_whatever_is_missing() {
        let report = report(false, Some("apt-get install -y maven"));
        assert!(!report.passed(false));
        assert!(report.summary(false).ends_with("FAILED"));
    }

    #[test]
    fn without_go_the_check_with_jaeger_is_named_and_is_no_failure() {
        let mut report = Report::new();
        let missing = |install: Option<&str>| Missing {
            what: "Jaeger".into(),
            why: "no Go".into(),
            install: install.map(str::to_owned),
        };
        report.no_jaeger(missing(Some("curl go")));
        assert!(report.passed(true));
        assert!(
            report
                .summary(true)
                .contains("NOT RUN:\n  traces in Jaeger, because no Go\n    to install it: curl go\nPASSED")
        );
        report.no_jaeger(missing(None));
        assert!(!report.passed(false));
    }
}
