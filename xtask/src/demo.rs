//! `cargo demo`: the sample shop at work, with a timeline of each kind of saga and a count of its effects.

use std::{process::ExitCode, time::Instant};

use anyhow::{Result, ensure};
use saga_tests::{
    processes::{Processes, Setting},
    support::{Guarded, Stop},
    world::{Order, World as _},
};

/// Run the sample shop on an embedded broker, and show what becomes of its orders
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many orders to place
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(3..))]
    orders: u64,
    /// Where to send traces, such as http://127.0.0.1:4317
    #[arg(long)]
    otlp: Option<String>,
}

/// Exit code 0 when every order ended, and the databases and the gateway agree.
pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let mut build = Guarded::command(env!("CARGO"), Stop::default());
    build.args(["build", "--release", "--workspace", "--bins"]);
    build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    ensure!(Guarded::spawn(&mut build)?.wait().await?.success(), "the services do not build");

    let mut world = Processes::start(Setting { otlp: args.otlp, ..Setting::default() }).await?;
    let begin = Instant::now();
    for (i, order) in
        [Order::of_a_book(), Order::by_a_declined_customer(), Order::of_a_sold_out_lamp()].iter().enumerate()
    {
        let saga = world.place(order).await?;
        println!("saga {} of {}: {saga}\n{}", i + 1, args.orders, world.ended(saga).await?);
    }
    for i in 3..args.orders {
        let order = match i % 20 {
            3 | 9 | 15 => Order::by_a_declined_customer(),
            5 | 11 | 17 => Order::of_a_sold_out_lamp(),
            _ => Order::of_a_book(),
        };
        world.place(&order).await?;
    }
    let totals = world.totals().await?;
    println!("{totals:#?}\n{} orders in {:.1} s", args.orders, begin.elapsed().as_secs_f64());
    let wrong = totals.disagreement();
    let all = totals.completed + totals.cancelled == args.orders;
    if wrong.is_some() || !all {
        world.keep_directory();
        eprintln!("{}; the logs are in {}", wrong.unwrap_or_default(), world.directory().display());
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
