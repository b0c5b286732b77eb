//! `cargo xtask jaeger-check`: one saga is one trace, as a real Jaeger shows it.
//!
//! The real services export to a Jaeger of their own, which is then asked for what it has. The invariant: whatever is not exactly
//! one connected trace per saga is an error, after a wait with a bound, as spans arrive a second late.

use std::{
    collections::BTreeSet,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, bail, ensure};
use saga_core::id::SagaId;
use saga_tests::{
    processes::{Processes, Setting},
    support::{Guarded, Jaeger, jaeger_binary},
    trace::Trace,
    world::{Order, World as _},
};

use crate::cargo::cargo;

/// Services export every second.
const BOUND: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(200);

/// Check with a real Jaeger that one saga is one trace, from service to service and over a restart
///
/// Plays one saga of each kind with the real services (embedded broker, SQLite files), one during which payment is killed
/// and one that the customer cancels; then asks Jaeger for their traces and prints them. Jaeger is the program that
/// SAGA_TEST_JAEGER names, the one on PATH, or one that is built with Go, which takes minutes the first time. It listens
/// on free ports of 127.0.0.1.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Stay up until Ctrl-C, for a look at the traces in the browser; a Jaeger that was built here has no pages
    #[arg(long)]
    keep: bool,
}

/// Exit code 0 when every saga is one trace in Jaeger.
pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let binary = jaeger_binary(&|line| eprintln!("{line}")).await?;
    let built = Guarded::spawn(&mut cargo(&["build", "--workspace", "--bins"]))?.wait().await?;
    ensure!(built.success(), "the services do not build");
    let jaeger = check(&binary).await?;
    if args.keep {
        println!("\nJaeger stays up at {} until Ctrl-C", jaeger.url());
        // Ctrl-C ends the whole program from outside, and stops Jaeger with it.
        std::future::pending::<()>().await;
    }
    Ok(ExitCode::SUCCESS)
}

/// What the trace of a kind of saga must have.
struct Kind {
    what: &'static str,
    order: fn() -> Order,
    services: &'static [&'static str],
    /// From service to service.
    edges: &'static [&'static str],
}

const COMPLETED: Kind = Kind {
    what: "completed",
    order: Order::of_a_book,
    services: &["order", "payment", "shipping"],
    edges: &[
        "order: send order -> payment: process order",
        "payment: send payment -> shipping: process payment",
        "shipping: send shipping -> order: process shipping",
    ],
};
const DECLINED: Kind = Kind {
    what: "payment declined, order cancelled",
    order: Order::by_a_declined_customer,
    services: &["order", "payment"],
    edges: &["order: send order -> payment: process order", "payment: send payment -> order: process payment"],
};
const OUT_OF_STOCK: Kind = Kind {
    what: "out of stock, payment refunded, order cancelled",
    order: Order::of_a_sold_out_lamp,
    services: &["order", "payment", "shipping"],
    edges: &[
        "order: send order -> payment: process order",
        "payment: send payment -> shipping: process payment",
        "shipping: send shipping -> payment: process shipping",
        "payment: send payment -> order: process payment",
    ],
};
/// Without a charge: payment is down until shipping has closed its gate.
const CANCELLED: Kind = Kind {
    what: "cancelled by the customer",
    order: Order::of_a_book,
    services: &["order", "payment", "shipping"],
    edges: &[
        "order: send order -> shipping: process order",
        "shipping: send shipping -> payment: process shipping",
        "payment: send payment -> order: process payment",
    ],
};

/// Plays the sagas and looks at their traces. The services have stopped when it returns; Jaeger still has the traces.
pub(crate) async fn check(binary: &Path) -> Result<Jaeger> {
    let begin = Instant::now();
    let jaeger = Jaeger::start(binary).await?;
    println!("Jaeger ({}) takes traces at {}", binary.display(), jaeger.otlp());
    let mut world = Processes::start(Setting { otlp: Some(jaeger.otlp()), ..Setting::default() }).await?;
    println!("order, payment and shipping are ready after {:.1} s", begin.elapsed().as_secs_f64());

    let checked = play(&jaeger, &mut world).await;
    if checked.is_err() {
        world.keep_directory();
        eprintln!("the logs and databases are kept in {}", world.directory().display());
    }
    let sagas = checked?;
    println!("\neach of {sagas} sagas is one trace in Jaeger ({:.1} s)", begin.elapsed().as_secs_f64());
    Ok(jaeger)
}

async fn play(jaeger: &Jaeger, world: &mut Processes) -> Result<usize> {
    let mut sagas = BTreeSet::new();
    let mut first_process = BTreeSet::new();
    for kind in [&COMPLETED, &DECLINED, &OUT_OF_STOCK] {
        let saga = world.place(&(kind.order)()).await?;
        world.ended(saga).await?;
        let trace = complete(jaeger, saga, kind).await?;
        show(jaeger, saga, &trace, kind.what);
        first_process.extend(trace.instances("payment").into_iter().map(str::to_owned));
        sagas.insert(saga.to_string());
    }
    ensure!(first_process.len() == 1, "payment has not been restarted, and was {} processes", first_process.len());

    // Once payment has charged, it is killed; another process of it refunds. Without shipping the saga waits in between.
    world.kill("shipping").await?;
    let saga = world.place(&(OUT_OF_STOCK.order)()).await?;
    until(async || {
        let trace = only(&jaeger.traces().await?, saga)?;
        expect_edges(&trace, &OUT_OF_STOCK.edges[..1])?;
        let charged = trace.spans.iter().any(|span| span.service == "payment" && span.name == "send payment");
        ensure!(charged, "payment has not charged:\n{trace}");
        Ok(())
    })
    .await?;
    world.kill("payment").await?;
    world.start("shipping").await?;

    // A customer's request is no reaction to an event, and belongs to the trace all the same.
    let cancelled = world.place(&(CANCELLED.order)()).await?;
    world.cancel(cancelled).await?;
    until(async || expect_edges(&only(&jaeger.traces().await?, cancelled)?, &CANCELLED.edges[..1])).await?;

    world.start("payment").await?;
    world.ended(saga).await?;
    let trace = complete(jaeger, saga, &OUT_OF_STOCK).await?;
    let processes = trace.instances("payment").len();
    ensure!(processes == 2, "payment was killed and started during the saga, but the trace has {processes} of it");
    show(jaeger, saga, &trace, "out of stock, and payment was killed (-9) and started again in between");
    sagas.insert(saga.to_string());
    world.ended(cancelled).await?;
    let trace = complete(jaeger, cancelled, &CANCELLED).await?;
    show(jaeger, cancelled, &trace, CANCELLED.what);
    sagas.insert(cancelled.to_string());

    // And the new process goes on with the next order as the first one did.
    let saga = world.place(&(COMPLETED.order)()).await?;
    world.ended(saga).await?;
    let trace = complete(jaeger, saga, &COMPLETED).await?;
    ensure!(
        trace.instances("payment").is_disjoint(&first_process.iter().map(String::as_str).collect()),
        "a killed process of payment took part in a saga that was started later:\n{trace}"
    );
    show(jaeger, saga, &trace, "completed, by the payment that was started again");
    sagas.insert(saga.to_string());

    let traces = jaeger.traces().await?;
    let all: Vec<&str> = traces.iter().flat_map(Trace::sagas).collect();
    ensure!(
        traces.len() == sagas.len() && all.len() == sagas.len() && all.iter().all(|saga| sagas.contains(*saga)),
        "{} sagas were played, Jaeger has {} traces:\n{}",
        sagas.len(),
        traces.len(),
        traces.iter().map(|trace| format!("{}\n{trace}", trace.id)).collect::<String>(),
    );
    Ok(sagas.len())
}

/// The trace of a saga, once everything is in it that belongs to its kind.
async fn complete(jaeger: &Jaeger, saga: SagaId, kind: &Kind) -> Result<Trace> {
    until(async || judge(&jaeger.traces().await?, saga, kind)).await
}

/// The one trace of the saga, in one piece and with everything that belongs to its kind.
fn judge(traces: &[Trace], saga: SagaId, kind: &Kind) -> Result<Trace> {
    let trace = only(traces, saga)?;
    let tops = trace.tops().count();
    ensure!(tops == 1, "the trace of saga {saga} is in {tops} pieces:\n{trace}");
    let (services, expected) = (trace.services(), kind.services.iter().copied().collect());
    ensure!(services == expected, "expected spans of {expected:?} for saga {saga}, Jaeger has {services:?}:\n{trace}");
    expect_edges(&trace, kind.edges)?;
    Ok(trace)
}

/// The one trace that names the saga, which names no other.
fn only(traces: &[Trace], saga: SagaId) -> Result<Trace> {
    let saga = saga.to_string();
    let named: Vec<&Trace> = traces.iter().filter(|trace| trace.sagas().contains(saga.as_str())).collect();
    match named.as_slice() {
        [trace] if trace.sagas().len() == 1 => Ok((*trace).clone()),
        [trace] => bail!("trace {} is of the sagas {:?}", trace.id, trace.sagas()),
        [] => bail!("Jaeger has no trace of saga {saga}"),
        several => bail!(
            "saga {saga} is {} traces:\n{}",
            several.len(),
            several.iter().map(|t| format!("{t}\n")).collect::<String>()
        ),
    }
}

fn expect_edges(trace: &Trace, expected: &[&str]) -> Result<()> {
    let edges = trace.edges();
    match expected.iter().find(|edge| !edges.iter().any(|found| found == **edge)) {
        Some(edge) => Err(anyhow!("{edge} is missing in trace {}:\n{trace}", trace.id)),
        None => Ok(()),
    }
}

fn show(jaeger: &Jaeger, saga: SagaId, trace: &Trace, what: &str) {
    print!("\n{what} (saga {saga})\n{}/trace/{}\n{trace}", jaeger.url(), trace.id);
}

/// Tries until it succeeds, or returns why it did not in time.
async fn until<T>(mut attempt: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let begin = Instant::now();
    loop {
        match attempt().await {
            Err(_) if begin.elapsed() < BOUND => tokio::time::sleep(POLL).await,
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use saga_core::clock::Clock;
    use saga_tests::otlp::ReceivedSpan;

    use super::*;

    /// Spans as `trace/id<parent service: name`, of one saga.
    fn spans(saga: SagaId, lines: &[&str]) -> Vec<Trace> {
        let mut traces: Vec<Trace> = Vec::new();
        for line in lines {
            let (ids, what) = line.split_once(' ').unwrap();
            let (trace_id, ids) = ids.split_once('/').unwrap();
            let (span_id, parent) = ids.split_once('<').unwrap();
            let (service, name) = what.split_once(": ").unwrap();
            let span = ReceivedSpan {
                trace_id: trace_id.to_owned(),
                span_id: span_id.to_owned(),
                parent_span_id: Some(parent.to_owned()).filter(|parent| !parent.is_empty()),
                name: name.to_owned(),
                kind: "internal",
                service: service.to_owned(),
                error: false,
                attributes: [("messaging.message.conversation_id".to_owned(), saga.to_string())].into(),
            };
            match traces.iter_mut().find(|trace| trace.id == trace_id) {
                Some(trace) => trace.spans.push(span),
                None => traces.push(Trace { id: trace_id.to_owned(), spans: vec![span] }),
            }
        }
        traces
    }

    fn judged(lines: &[&str]) -> Result<Trace, String> {
        let saga = SagaId::mint(&Clock::system());
        judge(&spans(saga, lines), saga, &DECLINED)
            .map_err(|error| error.to_string().lines().next().unwrap().to_owned())
    }

    const WHOLE: [&str; 5] = [
        "a/1< order: start place-order",
        "a/2<1 order: send order",
        "a/3<2 payment: process order",
        "a/4<3 payment: send payment",
        "a/5<4 order: process payment",
    ];

    #[test]
    fn one_connected_trace_with_every_edge_passes() {
        assert_eq!(judged(&WHOLE).unwrap().id, "a");
    }

    #[test]
    fn a_saga_in_two_traces_in_pieces_or_without_a_service_does_not_pass() {
        let without = |gone: usize| {
            let mut lines = WHOLE.to_vec();
            lines.remove(gone);
            judged(&lines).unwrap_err()
        };
        assert!(judged(&[]).unwrap_err().starts_with("Jaeger has no trace of saga"));
        assert!(without(2).ends_with("is in 2 pieces:"));
        assert!(without(4).starts_with("payment: send payment -> order: process payment is missing"));
        assert!(judged(&WHOLE[..2]).unwrap_err().contains("Jaeger has {\"order\"}"));
        let restarted = [WHOLE[0], WHOLE[1], "b/3< payment: process order", "b/4<3 payment: send payment"];
        assert!(judged(&restarted).unwrap_err().contains("is 2 traces"));
    }
}
