//! Every labelled point at which a process may die, one after the other, in each service that reaches it.
//!
//! The services have to be built with the feature `harness`: the variable `SAGA_CRASH_AT=point:nth` then ends a process at its
//! n-th arrival there, as SIGKILL would.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use serde_json::json;

use super::shop::Shop;

/// The points, and who reaches them. By name: whoever kills processes needs nothing of the toolkit. `Committed` comes before
/// `swept`, so that the sweeper finds something.
const POINTS: [(&str, &[&str]); 17] = [
    ("taken", ALL),
    ("begun", ALL),
    ("locked", ALL),
    ("read", ALL),
    ("folded", ALL),
    ("written", ALL),
    ("committed", ALL),
    ("swept", ALL),
    ("before-offsets", ALL),
    ("after-offsets", ALL),
    ("before-publish", ALL),
    ("before-delete", ALL),
    ("after-delete", ALL),
    ("before-call", &["payment"]),
    ("after-call", &["payment"]),
    ("before-start-commit", &["order"]),
    ("after-start-commit", &["order"]),
];
const ALL: &[&str] = &["order", "payment", "shipping"];

/// A process joins its group after ten seconds at most, because the one before it died without leaving; then events come.
const REACHED_WITHIN: Duration = Duration::from_secs(90);
/// A sweep a second; rows are swept that are older than five.
const SWEEP_THAT_FINDS_SOMETHING: u64 = 8;

/// Lets a service die at each point that it reaches, `times` in sum over the services at least; how often each did.
pub async fn die_at_each(shop: &Shop, service: &str, times: usize) -> Result<BTreeMap<String, usize>> {
    let mut died = BTreeMap::new();
    for (point, reached_by) in POINTS.into_iter().filter(|(_, reached_by)| reached_by.contains(&service)) {
        for round in 0..times.div_ceil(reached_by.len()) {
            // The first arrival, and some later ones.
            let nth = if point == "swept" { SWEEP_THAT_FINDS_SOMETHING } else { 1 + 3 * round as u64 };
            // Nobody else may start it again meanwhile.
            let mut instance = shop.instance(service)?.lock().await;
            instance.kill().await?;
            instance.start(&[("SAGA_CRASH_AT".to_owned(), format!("{point}:{nth}"))])?;
            let words = instance.wait(REACHED_WITHIN).await;
            shop.journal()
                .count(&format!("crash at {point}"), &json!({ "instance": service, "nth": nth, "words": words }));
            let as_asked = words.as_ref().is_some_and(|words| words.contains(&format!("crash at {point}")));
            ensure!(as_asked, "{service} did not die at {point}: {words:?}; built with the feature harness?");
            instance.start(&[])?;
            *died.entry(point.to_owned()).or_default() += 1;
        }
    }
    Ok(died)
}
