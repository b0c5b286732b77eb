#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]
use saga_tests::random::*;
use std::{collections::BTreeMap, time::Instant};

#[test]
fn measure() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut player = Player::new().await.unwrap();
        let began = Instant::now();
        let mut by = BTreeMap::<usize, (usize, usize)>::new();
        let n: u64 = std::env::var("N").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
        let mut kinds = BTreeMap::<String, usize>::new();
        for seed in 0..n {
            let (manifests, mistakes) = choreography(seed, &player.decides()).unwrap();
            let how = How { seed, sagas: 12, rules: vec![] };
            let left = match player.play(&manifests, &how).await {
                Ok(left) => left,
                Err(error) => panic!("{seed} {mistakes} {error:#}"),
            };
            let mut bad = std::collections::BTreeSet::new();
            for left in &left { bad.extend(judge(&manifests, left)); }
            let e = by.entry(mistakes).or_default();
            e.0 += 1;
            e.1 += usize::from(bad.is_empty());
            for b in &bad { let k = match b { Bad::Ends(c, _) => c.to_string(), Bad::Pipeline(_) => "pipeline".into() }; *kinds.entry(k).or_default() += 1; }
            if mistakes == 0 && !bad.is_empty() || bad.iter().any(|b| matches!(b, Bad::Pipeline(_))) {
                println!("{seed}: {bad:?}\n{}", saga_core::manifest::to_table(&manifests));
            }
        }
        println!("turns {TURNS:?}"); println!("{by:?} {kinds:?} {:?}", began.elapsed());
    });
}
