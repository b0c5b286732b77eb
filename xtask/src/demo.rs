//! `cargo demo`: the sample shop at work, with a timeline of each kind of saga and a count of its effects.

use std::{
    collections::BTreeMap,
    io::Write as _,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use saga_core::clock::Clock;
use saga_tests::{
    processes::{PARTICIPANTS, Processes, Setting, partitions_for},
    support::{Guarded, Postgres},
    world::{Order, Totals, World as _},
};

use crate::{cargo::cargo, pace};

/// Orders between two looks at how far the sagas are.
const CHUNK: usize = 500;
/// The longest time without any progress.
const PATIENCE: Duration = Duration::from_secs(60);
/// The embedded broker keeps all events in memory: about half a gigabyte for so many.
const MOST_EMBEDDED: u64 = 100_000;

/// Run the sample shop: three services and a payment gateway, and show what becomes of their orders
///
/// Without options it needs nothing but this checkout: an embedded broker (in memory) and SQLite files.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many orders to place
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(3..=1_000_000))]
    orders: u64,
    /// Place so many orders each second, whether or not the shop keeps up, and show how long they took; without this, 64
    /// customers order as fast as they are answered
    #[arg(long, value_name = "PER SECOND", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: Option<u32>,
    /// Draws which orders are declined and which are out of stock
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Stay up until Ctrl-C, for orders of your own
    #[arg(long)]
    keep: bool,
    /// Use this Kafka instead of the embedded broker; its topics order, payment and shipping are created when missing
    #[arg(long, value_name = "HOST:PORT")]
    kafka: Option<String>,
    /// Use databases on this PostgreSQL instead of SQLite files; new ones are created
    #[arg(long, value_name = "URL", env = "SAGA_DEMO_POSTGRES", hide_env_values = true)]
    postgres: Option<String>,
    /// Where to send traces, such as http://127.0.0.1:4317
    #[arg(long, value_name = "URL")]
    otlp: Option<String>,
}

/// Exit code 0 when every order ended, and the databases and the gateway agree.
pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    ensure!(
        args.kafka.is_some() || args.orders <= MOST_EMBEDDED,
        "the embedded broker keeps every event in memory, and is meant for {MOST_EMBEDDED} orders at most: \
         for more, name a Kafka with --kafka (cargo xtask servers starts one)"
    );
    println!("building the services");
    // Together with this program, so that both are built with the same features and nothing is built twice.
    let mut build = cargo(&["build", "--release", "-p", "xtask", "-p", "saga-services", "--bins"]);
    ensure!(Guarded::spawn(&mut build)?.wait().await?.success(), "the services do not build");

    let begin = Instant::now();
    let mut databases = BTreeMap::new();
    if let Some(url) = &args.postgres {
        let postgres = Postgres::at(url.clone());
        for name in PARTICIPANTS {
            databases.insert(name.to_owned(), postgres.database(name).await?);
        }
    }
    let broker = args.kafka.as_deref().unwrap_or("an embedded broker (in memory)");
    let store = if args.postgres.is_some() { "PostgreSQL" } else { "SQLite files" };
    println!("starting order, payment, shipping and a payment gateway on {broker} and {store}");
    let partitions = args.kafka.is_none().then(|| partitions_for(args.orders));
    if let Some(partitions) = partitions.filter(|partitions| *partitions > partitions_for(0)) {
        println!("with {partitions} partitions a topic, because the embedded broker drops what is beyond 5 MiB of one");
    }
    let (kafka, otlp) = (args.kafka.clone(), args.otlp.clone());
    let setting = Setting { kafka, databases, otlp, partitions, ..Setting::default() };
    let mut world = Processes::start(setting).await?;
    println!("ready after {:.1} s\n", begin.elapsed().as_secs_f64());

    let played = play(&args, &mut world, begin).await;
    if !matches!(played, Ok(true)) {
        world.keep_directory();
        eprintln!("the logs and databases are kept in {}", world.directory().display());
        return played.map(|_| ExitCode::FAILURE);
    }
    if args.keep {
        keep(&args, &world);
        // Ctrl-C ends the whole program from outside, and stops the services with it.
        std::future::pending::<()>().await;
    }
    Ok(ExitCode::SUCCESS)
}

async fn play(args: &Args, world: &mut Processes, begin: Instant) -> Result<bool> {
    let before = world.count().await?;
    let kinds = [
        ("completed", Order::of_a_book()),
        ("payment declined, order cancelled", Order::by_a_declined_customer()),
        ("out of stock, payment refunded, order cancelled", Order::of_a_sold_out_lamp()),
    ];
    for (what, order) in &kinds {
        let saga = world.place(order).await?;
        let timeline = world.ended(saga).await?;
        println!("{what} (saga {saga}, after {:.1} s)\n{timeline}", begin.elapsed().as_secs_f64());
    }

    let random = Clock::manual(0, args.seed);
    let rest: Vec<Order> = (3..args.orders)
        .map(|_| match random.random() % 100 {
            0..15 => Order::by_a_declined_customer(),
            15..30 => Order::of_a_sold_out_lamp(),
            _ => Order::of_a_book(),
        })
        .collect();
    let played = match args.rate {
        Some(rate) => Some(pace::place(world, &rest, rate).await?.to_string()),
        None if rest.is_empty() => None,
        None => Some(as_fast_as_answered(world, &before, &rest).await?),
    };
    let totals = world.totals().await?;
    progress("");
    print(args.orders, &before, &totals);
    println!("{}\n", played.unwrap_or_default());
    let memory: Vec<String> =
        world.memory().into_iter().map(|(name, bytes)| format!("{name} {} MB", bytes / 1_000_000)).collect();
    if !memory.is_empty() {
        println!("resident memory: {}", memory.join(", "));
    }
    let ended = totals.completed + totals.cancelled - before.completed - before.cancelled;
    match totals.disagreement() {
        Some(why) => eprintln!("the databases and the gateway do not agree: {why}"),
        None if ended != args.orders => eprintln!("{} orders were placed, {ended} have ended", args.orders),
        None => {
            println!("the three databases and the gateway's own record agree");
            println!("next: cargo demo --keep, cargo demo --orders 10000, services/src/shipping.rs, README.md");
            return Ok(true);
        }
    }
    Ok(false)
}

/// Each of [`Processes::place_all`]'s customers orders again as soon as they are answered. Returns how fast it went.
async fn as_fast_as_answered(world: &mut Processes, before: &Totals, orders: &[Order]) -> Result<String> {
    let ended_before = before.completed + before.cancelled;
    let started = Instant::now();
    for (i, chunk) in orders.chunks(CHUNK).enumerate() {
        world.place_all(chunk).await?;
        progress(&format!("placed {} of {} orders", i * CHUNK + chunk.len(), orders.len()));
    }
    let (mut last, mut moved) = (0, Instant::now());
    while last < 3 + orders.len() as u64 {
        ensure!(moved.elapsed() < PATIENCE, "of {} orders {last} have ended, and nothing moves", 3 + orders.len());
        progress(&format!("{last} of {} orders have ended", 3 + orders.len()));
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = world.ended_orders().await? - ended_before;
        if now != last {
            (last, moved) = (now, Instant::now());
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let rate = orders.len() as f64 / seconds;
    Ok(format!("{} sagas in {seconds:.1} s from the first order to the last ending: {rate:.0} sagas/s", orders.len()))
}

fn print(orders: u64, before: &Totals, totals: &Totals) {
    println!("                       order  payment  shipping  gateway");
    let row = |what: &str, counts: [Option<u64>; 4]| {
        let cells = counts.map(|count| count.map_or_else(|| "-".to_owned(), |count| count.to_string()));
        println!("{what:<20} {:>7} {:>8} {:>9} {:>8}", cells[0], cells[1], cells[2], cells[3]);
    };
    let since = |count: fn(&Totals) -> u64| Some(count(totals) - count(before));
    row("placed", [Some(orders), None, None, None]);
    row("completed / shipped", [since(|t| t.completed), since(|t| t.charged), since(|t| t.shipped), None]);
    row("cancelled", [since(|t| t.cancelled), None, None, None]);
    row("declined", [None, since(|t| t.declined), None, None]);
    row("charged", [None, since(|t| t.charged + t.refunded), None, since(|t| t.gateway_charges)]);
    row("refunded", [None, since(|t| t.refunded), None, since(|t| t.gateway_refunds)]);
}

fn keep(args: &Args, world: &Processes) {
    let order = world.url("order");
    println!("\nthe shop stays open until Ctrl-C:\n");
    println!("  curl -i {order}/orders -H 'content-type: application/json' -H 'idempotency-key: 1' \\");
    println!("    -d '{{\"customer\":\"ada\",\"item\":\"book\",\"quantity\":1,\"unit_price_cents\":1999}}'");
    println!(
        "  curl {order}/orders/ID        # what became of it; item lamp is sold out, customer declined-.. is declined"
    );
    println!("  curl {}/record    # the gateway's own record", world.url("gateway"));
    for name in PARTICIPANTS {
        println!("  curl {}/ready     # {name}", world.url(name));
    }
    println!("\nlogs and databases: {}", world.directory().display());
    match &args.otlp {
        Some(otlp) => println!("traces go to {otlp}"),
        None => println!("traces go nowhere: --otlp http://127.0.0.1:4317 sends them to Jaeger"),
    }
}

/// One line that is written over.
pub(crate) fn progress(what: &str) {
    print!("\r{what:<60}\r");
    std::io::stdout().flush().context("standard output is closed").unwrap_or_else(|error| eprintln!("{error}"));
}
