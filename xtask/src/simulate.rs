//! `cargo xtask simulate`: the three participants under a driver that lets everything go wrong, seed after seed.
//!
//! The invariant: what is printed is enough to see the same failure again: the seed, the fewest faults, the saga.

use std::{
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use saga_core::harness::Rule;
use saga_tests::simulation::{Play, Played, play, shrink};

/// Simulate the three services under duplicates, reordering, crashes, zombies and a gateway that misbehaves
///
/// Every seed is a run of its own, and the same seed is always the same run. What must hold is checked at the end of each:
/// no accepted order is lost, every step has one effect at most, cancelled orders are taken back and completed ones are
/// not, money and stock are conserved, nothing uncommitted is published, everything committed is, the services agree,
/// and everything ends. With --break a rule is broken on purpose, and the first seed that shows it is printed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many seeds
    #[arg(long, default_value_t = 500)]
    seeds: u64,
    /// Orders per seed
    #[arg(long, default_value_t = 50)]
    sagas: usize,
    /// The first seed; with --seeds 1, the only one
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Break this rule; may be given several times
    #[arg(long = "break", value_name = "RULE", value_parser = rule)]
    rules: Vec<Rule>,
    /// Print the journal of the last run
    #[arg(long)]
    journal: bool,
    /// Runs that may be spent on finding the fewest faults
    #[arg(long, default_value_t = 400)]
    shrink: usize,
}

fn rule(name: &str) -> Result<Rule, String> {
    match name.parse().map_err(|error: saga_core::harness::UnknownName| error.to_string())? {
        Rule::LockAndReadInOne => Err("only a real PostgreSQL can show it: see tests/tests/locks.rs".to_owned()),
        rule => Ok(rule),
    }
}

/// Exit code 0 when nothing was violated, or when a rule is broken and that was seen.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let stop = std::sync::Arc::new(Stop::default());
    // Whoever drops this future stops the workers at the end of their seeds.
    let _ends = Ends(stop.clone());
    tokio::task::spawn_blocking(move || simulate(&args, &stop.0)).await?
}

#[derive(Debug, Default)]
struct Stop(AtomicBool);

struct Ends(std::sync::Arc<Stop>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

fn simulate(args: &Args, stop: &AtomicBool) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let next = AtomicU64::new(args.seed);
    let end = args.seed.saturating_add(args.seeds);
    let totals = Mutex::new(Totals::default());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let work = || -> anyhow::Result<()> {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                // When something was found, the seeds before it are still played: the first one is told.
                if seed >= end || stop.load(Ordering::Relaxed) || lock(&totals).first_below(seed) {
                    return Ok(());
                }
                let what = Play { rules: args.rules.clone(), ..Play::sound(seed, args.sagas) };
                let played = play(&what)?;
                lock(&totals).add(what, played);
            }
        };
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    let Totals { seeds, completed, cancelled, faults, last, failed } =
        totals.into_inner().unwrap_or_else(PoisonError::into_inner);
    let took = began.elapsed().as_secs_f64();
    let sagas = completed + cancelled;
    println!(
        "{seeds} seeds, {sagas} sagas ended ({completed} completed, {cancelled} cancelled) under {faults} faults, \
         {took:.1} s, {:.0} sagas/s",
        sagas as f64 / took
    );
    if args.journal
        && let Some(played) = failed.as_ref().map(|(_, played)| played).or(last.as_ref())
    {
        print!("{}", played.journal);
    }
    let broken = !args.rules.is_empty();
    let Some((what, played)) = failed else {
        if broken {
            println!("no seed shows that {} is broken", names(&args.rules));
        }
        return Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS });
    };
    tell(&what, played, args.shrink)?;
    Ok(if broken { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell(what: &Play, played: Played, tries: usize) -> anyhow::Result<()> {
    if let Some(violation) = &played.violation {
        println!("seed {}: {violation}", what.seed);
    }
    let (least, played) = shrink(what, played, tries)?;
    let orders = least.only.map_or(what.sagas, |only| only.orders.len());
    println!("the fewest that were found to fail: {orders} orders and {} faults", played.faults.len());
    for strike in &played.faults {
        println!("  {strike}");
    }
    if let Some(violation) = &played.violation {
        println!("{violation}");
    }
    print!("{}", played.saga.unwrap_or_default());
    let rules: String = what.rules.iter().map(|rule| format!(" --break {rule}")).collect();
    println!("again: cargo xtask simulate --seed {} --seeds 1 --sagas {}{rules} --journal", what.seed, what.sagas);
    Ok(())
}

fn names(rules: &[Rule]) -> String {
    rules.iter().map(|rule| rule.name()).collect::<Vec<_>>().join(", ")
}

#[derive(Default)]
struct Totals {
    seeds: u64,
    completed: usize,
    cancelled: usize,
    faults: usize,
    last: Option<Played>,
    failed: Option<(Play, Played)>,
}

impl Totals {
    fn first_below(&self, seed: u64) -> bool {
        self.failed.as_ref().is_some_and(|(what, _)| what.seed < seed)
    }

    fn add(&mut self, what: Play, played: Played) {
        self.seeds += 1;
        self.completed += played.ended.0;
        self.cancelled += played.ended.1;
        self.faults += played.faults.len();
        if played.violation.is_some() && !self.first_below(what.seed) {
            self.failed = Some((what, played));
        } else {
            self.last = Some(played);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
