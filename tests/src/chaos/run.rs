//! One run: chaos under load, then each service killed once and the time to quiet measured, then many stops; then the checker.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde_json::json;
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    customers::{Customers, Tally},
    fault::plan,
    points::die_at_each,
    shop::{Shop, Stopped},
};
use crate::processes::PARTICIPANTS;

/// Load before something is measured, so that there is something to lose.
const WARM: Duration = Duration::from_secs(4);
/// Where the wait for quiet ends for good: what goes on then hangs.
const HANGS: Duration = Duration::from_secs(240);

/// What to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long to break things.
    pub chaos: Duration,
    /// Draws faults and customers.
    pub seed: u64,
    /// Orders a second.
    pub rate: f64,
    /// Whether to kill each service once on its own.
    pub kills: bool,
    /// How often to let a process die at each labelled point.
    pub points: usize,
    /// How many stops to measure in peace.
    pub stops: usize,
    /// The longest time to quiet.
    pub quiet_within: Duration,
    /// The longest stop.
    pub stop_within: Duration,
    /// Where everything is written that may be looked at afterwards.
    pub directory: PathBuf,
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// How often each kind of fault was inflicted.
    pub faults: BTreeMap<String, u64>,
    /// Connections cut at a COMMIT, and at a produce request.
    pub sprung: (u64, u64),
    /// What customers did.
    pub tally: Tally,
    /// Seconds from the last fault to quiet; none when it never came.
    pub quiet: Option<Duration>,
    /// Seconds from `kill -9` of a service under load to quiet; none when it never came.
    pub after_kill: BTreeMap<String, Option<Duration>>,
    /// How often a process died at each labelled point.
    pub points: BTreeMap<String, usize>,
    /// Seconds from the last of these to quiet; none when it never came.
    pub after_points: Option<Duration>,
    /// Stops.
    pub stops: Vec<Stopped>,
    /// Who ended by itself, and with which words.
    pub exits: Vec<String>,
    /// Whether every invariant holds.
    pub holds: bool,
    /// What the checker said.
    pub verdict: String,
}

/// Runs it all.
pub async fn run(options: &Options) -> Result<Report> {
    let shop = Arc::new(Shop::open(&options.directory).await?);
    let list = options.directory.join("accepted.jsonl");
    let customers = Customers::new(shop.url().await?, options.seed, &list)?;
    let watching = CancellationToken::new();
    let mut supervisor = JoinSet::new();
    let (watched, until) = (shop.clone(), watching.clone());
    supervisor.spawn(async move { watched.supervise(until).await });

    let quiet = with_load(&shop, &customers, options, chaos(&shop, options)).await?;
    eprintln!("quiet after {quiet:?}");
    let mut after_kill = BTreeMap::new();
    for name in PARTICIPANTS.into_iter().filter(|_| options.kills) {
        eprintln!("{name} is killed");
        let kill = async {
            sleep(WARM).await;
            let mut instance = shop.instance(name)?.lock().await;
            shop.journal().count(&format!("kill -9 {name}, measured"), &json!({}));
            instance.kill().await?;
            instance.start(&[])
        };
        after_kill.insert(name.to_owned(), with_load(&shop, &customers, options, kill).await?);
    }
    let mut points = BTreeMap::<String, usize>::new();
    let mut after_points = Some(Duration::ZERO);
    if options.points > 0 {
        eprintln!("each labelled point");
        let all = async {
            let [order, payment, shipping] = PARTICIPANTS.map(|name| die_at_each(&shop, name, options.points));
            let (order, payment, shipping) = tokio::try_join!(order, payment, shipping)?;
            for (point, count) in order.into_iter().chain(payment).chain(shipping) {
                *points.entry(point).or_default() += count;
            }
            Ok(())
        };
        after_points = with_load(&shop, &customers, options, all).await?;
    }
    let mut last = quiet;
    if options.stops > 0 {
        eprintln!("{} stops", options.stops);
        last = with_load(&shop, &customers, options, stops(&shop, options.stops)).await?;
    }
    watching.cancel();
    while let Some(ended) = supervisor.join_next().await {
        ended??;
    }
    let (holds, verdict) = shop.inspection().check().await?;
    let report = Report {
        faults: shop.journal().counts(),
        sprung: shop.sprung(),
        tally: customers.tally(),
        quiet: last.and(quiet),
        after_kill,
        points,
        after_points,
        stops: shop.stops(),
        exits: shop.exits(),
        holds,
        verdict,
    };
    shop.journal().tell("verdict", &json!({ "holds": holds, "said": report.verdict }));
    Ok(report)
}

/// Lets customers order while `work` is done; then how long it takes until everything is quiet.
async fn with_load(
    shop: &Shop,
    customers: &Customers,
    options: &Options,
    work: impl Future<Output = Result<()>>,
) -> Result<Option<Duration>> {
    let stop = CancellationToken::new();
    let load = customers.order(options.rate, stop.clone());
    let work = async {
        let _ends = stop.drop_guard();
        work.await?;
        anyhow::Ok(Instant::now())
    };
    // Whoever fails ends the other.
    let (begin, ()) = tokio::try_join!(work, load)?;
    shop.mend();
    shop.until_ready().await?;
    shop.journal().tell("waiting for quiet", &json!({ "after_ms": begin.elapsed().as_millis() }));
    let quiet = shop.inspection().quiet(HANGS).await?;
    let took = begin.elapsed();
    let told = json!({ "quiet": quiet.is_quiet, "after_ms": took.as_millis(), "left": quiet.left });
    shop.journal().tell("quiet", &told);
    if !quiet.is_quiet {
        eprintln!("not quiet: {told}");
    }
    Ok(quiet.is_quiet.then_some(took))
}

async fn chaos(shop: &Arc<Shop>, options: &Options) -> Result<()> {
    let begin = Instant::now();
    let mut inflicting = JoinSet::new();
    for planned in plan(options.seed, options.chaos) {
        sleep(Duration::from_millis(planned.at).saturating_sub(begin.elapsed())).await;
        let shop = shop.clone();
        inflicting.spawn(async move { shop.inflict(&planned).await });
        while let Some(done) = inflicting.try_join_next() {
            done??;
        }
    }
    while let Some(done) = inflicting.join_next().await {
        done??;
    }
    Ok(())
}

/// Stops each service in turn, and lets it come back.
async fn stops(shop: &Shop, count: usize) -> Result<()> {
    sleep(WARM).await;
    for name in PARTICIPANTS.into_iter().cycle().take(count) {
        shop.stop(name, true).await?;
        shop.instance(name)?.lock().await.start(&[])?;
        shop.until_ready().await?;
    }
    Ok(())
}

impl Report {
    /// The stop that one in a hundred takes longer than, or the longest of fewer.
    pub fn p99_of_stops(&self, in_peace: bool) -> Option<Duration> {
        let mut took: Vec<Duration> =
            self.stops.iter().filter(|stop| stop.in_peace == in_peace).map(|stop| stop.took).collect();
        took.sort_unstable();
        let rank = (took.len() * 99).div_ceil(100);
        took.get(rank.checked_sub(1)?).copied()
    }
}
