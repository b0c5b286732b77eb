//! One choreography, what the verifier says of it, and what becomes of its sagas; and thousands of those beside each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use saga_choreography::{Code, explore::OF_RUNS};
use saga_core::{Manifest, Participant, harness::Rule, timeline::Timeline};

use super::{Bad, How, Left, Player, Verdict, choreography, judge};

/// What is tried.
#[derive(Debug, Clone)]
pub struct Trials {
    /// The seeds of the choreographies.
    pub seeds: std::ops::Range<u64>,
    /// How many sagas each play has.
    pub sagas: usize,
    /// How often a choreography is played that is called unsound, until a saga of it ends badly.
    pub plays: u64,
    /// The codes that the verifier overlooks.
    pub blind: Vec<Code>,
    /// The rules that the participants break.
    pub rules: Vec<Rule>,
    /// Ends with the first disagreement.
    pub until_the_first: bool,
}

/// What became of them.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// Choreographies.
    pub tried: u64,
    /// Those without a mistake on purpose.
    pub without_mistakes: u64,
    /// Those that the verifier calls sound.
    pub sound: u64,
    /// Those of which no run ends badly, by the exploration: the sound ones, and some that break a rule.
    pub ends_well: u64,
    /// Those that were not explored to their end, and so are called neither.
    pub not_explored: u64,
    /// Sagas that were played.
    pub sagas: u64,
    /// Choreographies of which a saga ended badly.
    pub ended_badly: u64,
    /// For each code of a run: choreographies in which the verifier found it, in which a saga came to it, and in which both is so.
    pub codes: BTreeMap<Code, [u64; 3]>,
    /// Choreographies that are called unsound for what a run comes to, and of which a saga ended badly.
    pub confirmed: (u64, u64),
    /// Where verifier and pipeline disagree.
    pub disagreements: Vec<Disagreement>,
    /// The time that the verifier took, and the player.
    pub took: [Duration; 2],
}

/// A choreography of which a saga came to something that the verifier says cannot be.
#[derive(Debug, Clone)]
pub struct Disagreement {
    /// The seed of the choreography.
    pub seed: u64,
    /// Everything that a person wants to know.
    pub story: String,
}

impl Trials {
    /// Sound rules, a seeing verifier.
    pub fn of(seeds: std::ops::Range<u64>) -> Self {
        let (blind, rules) = (Vec::new(), Vec::new());
        Self { seeds, sagas: 8, plays: 6, blind, rules, until_the_first: false }
    }

    /// Runs them, on every processor. Errors are those of the player, or of a participant that stopped.
    pub fn run(&self) -> Result<Figures> {
        let (next, found) = (AtomicU64::new(self.seeds.start), AtomicBool::new(false));
        let workers = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            let workers: Vec<_> = (0..workers).map(|_| scope.spawn(|| self.work(&next, &found))).collect();
            workers.into_iter().try_fold(Figures::default(), |figures, worker| {
                Ok(figures.and(worker.join().map_err(|_| anyhow!("a worker panicked"))??))
            })
        })
    }

    fn work(&self, next: &AtomicU64, found: &AtomicBool) -> Result<Figures> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut player = Player::new().await?;
            let mut figures = Figures::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= self.seeds.end || (self.until_the_first && found.load(Ordering::Relaxed)) {
                    return Ok(figures);
                }
                let tried = self.one(&mut player, seed).await.with_context(|| format!("choreography {seed}"))?;
                found.fetch_or(!tried.disagreements.is_empty(), Ordering::Relaxed);
                figures = figures.and(tried);
            }
        })
    }

    async fn one(&self, player: &mut Player, seed: u64) -> Result<Figures> {
        let (manifests, mistakes) = choreography(seed, &player.decides())?;
        let mut figures = Figures { tried: 1, without_mistakes: u64::from(mistakes == 0), ..Figures::default() };
        let began = Instant::now();
        let verdict = Verdict::of(&manifests, &self.blind);
        figures.took[0] = began.elapsed();
        let began = Instant::now();
        let ends_well = verdict.ends_well();
        let mut ends = Vec::new();
        let mut plays = 0;
        while ends.is_empty() && plays < if ends_well { 1 } else { self.plays } {
            ends = self.play(player, &manifests, seed, plays).await;
            figures.sagas += self.sagas as u64;
            plays += 1;
        }
        let bad: BTreeSet<&Bad> = ends.iter().flat_map(|end| &end.bad).collect();
        figures.took[1] = began.elapsed();
        figures.sound = u64::from(verdict.is_sound());
        figures.ends_well = u64::from(ends_well);
        figures.not_explored = u64::from(!verdict.complete);
        figures.ended_badly = u64::from(!bad.is_empty());
        let came_to = |code: Code| bad.iter().any(|bad| matches!(bad, Bad::Ends(own, _) if *own == code));
        let found = verdict.codes();
        for code in OF_RUNS {
            let (found, came) = (found.contains(&code), came_to(code));
            figures.codes.insert(code, [u64::from(found), u64::from(came), u64::from(found && came)]);
        }
        figures.confirmed = (u64::from(!found.is_empty()), u64::from(!found.is_empty() && !bad.is_empty()));
        if let Some(end) = ends.iter().find(|end| disagree(&verdict, &end.bad)) {
            let story = story(seed, &manifests, end);
            let story = self.shrunk(player, seed, manifests, plays - 1).await.unwrap_or(story);
            figures.disagreements.push(Disagreement { seed, story });
        }
        Ok(figures)
    }

    /// The n-th play of a choreography: its sagas that ended badly.
    async fn play(&self, player: &mut Player, of: &[Manifest], seed: u64, n: u64) -> Vec<End> {
        let how = How { seed: seed.wrapping_mul(1_000) + n, sagas: self.sagas, rules: self.rules.clone() };
        match player.play(of, &how).await {
            Ok(all) => {
                let ends = all.into_iter().map(|left| End { bad: judge(of, &left), left: Some(left) });
                ends.filter(|end| !end.bad.is_empty()).collect()
            }
            Err(stopped) => {
                vec![End { bad: BTreeSet::from([Bad::Pipeline(format!("it stopped: {stopped:#}"))]), left: None }]
            }
        }
    }

    /// Takes steps away as long as verifier and pipeline go on disagreeing, and tells of what is left.
    async fn shrunk(&self, player: &mut Player, seed: u64, mut of: Vec<Manifest>, n: u64) -> Option<String> {
        let mut told = None;
        'shrinks: loop {
            for (m, step) in of.iter().enumerate().flat_map(|(m, of)| (0..of.steps.len()).map(move |step| (m, step))) {
                let mut less = of.clone();
                less[m].steps.remove(step);
                less.retain(|manifest| !manifest.steps.is_empty());
                let decides = player.decides();
                let plays = |manifest| Participant::scripted(manifest, &decides).and_then(|cast| cast.check());
                if less.iter().any(|manifest| plays(manifest).is_err()) {
                    continue;
                }
                let verdict = Verdict::of(&less, &self.blind);
                let ends = self.play(player, &less, seed, n).await;
                if let Some(end) = ends.iter().find(|end| disagree(&verdict, &end.bad)) {
                    told = Some(story(seed, &less, end));
                    of = less;
                    continue 'shrinks;
                }
            }
            return told;
        }
    }
}

/// A saga that ended badly, or a play that stopped.
struct End {
    bad: BTreeSet<Bad>,
    left: Option<Left>,
}

impl Figures {
    fn and(mut self, other: Self) -> Self {
        self.tried += other.tried;
        self.without_mistakes += other.without_mistakes;
        self.sound += other.sound;
        self.ends_well += other.ends_well;
        self.not_explored += other.not_explored;
        self.sagas += other.sagas;
        self.ended_badly += other.ended_badly;
        for (code, counts) in other.codes {
            let own = self.codes.entry(code).or_default();
            own.iter_mut().zip(counts).for_each(|(own, count)| *own += count);
        }
        self.confirmed.0 += other.confirmed.0;
        self.confirmed.1 += other.confirmed.1;
        self.disagreements.extend(other.disagreements);
        self.took[0] += other.took[0];
        self.took[1] += other.took[1];
        self
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [verifying, playing] = self.took;
        writeln!(
            f,
            "{} choreographies, {} of them without a mistake; {} sagas",
            self.tried, self.without_mistakes, self.sagas
        )?;
        writeln!(f, "called sound: {}; without a run that ends badly: {}", self.sound, self.ends_well)?;
        writeln!(f, "not explored to the end: {}", self.not_explored)?;
        writeln!(f, "with a saga that ended badly: {}", self.ended_badly)?;
        let (unsound, confirmed) = self.confirmed;
        writeln!(f, "called unsound for what a run comes to: {unsound}; confirmed by a saga: {confirmed}")?;
        for (code, [found, came, both]) in &self.codes {
            writeln!(f, "  {code}: found in {found}, came to pass in {came}, both in {both}  ({})", code.title())?;
        }
        writeln!(
            f,
            "disagreements: {}; verifying took {verifying:.1?}, playing {playing:.1?}",
            self.disagreements.len()
        )
    }
}

/// Whether something happened that the verifier says nothing of. Of a choreography that it calls sound that is whatever is bad; of
/// another one it is a kind of bad end that was not found.
fn disagree(verdict: &Verdict, bad: &BTreeSet<Bad>) -> bool {
    let codes = verdict.codes();
    bad.iter().any(|bad| match bad {
        Bad::Ends(code, _) => verdict.complete && !codes.contains(code),
        Bad::Pipeline(_) => true,
    })
}

fn story(seed: u64, manifests: &[Manifest], end: &End) -> String {
    let mut story =
        format!("choreography {seed}: verifier and pipeline disagree, for a saga came to what was not foreseen:\n");
    // Writing into a text cannot fail.
    for bad in &end.bad {
        let _ = writeln!(story, "  {bad}");
    }
    let _ = writeln!(story, "\n{}", saga_core::manifest::to_table(manifests));
    if let Some(left) = &end.left {
        let _ = writeln!(story, "{}", Timeline::of(left.saga, left.events.iter().cloned()));
        for (participant, row) in &left.ledger {
            let _ = writeln!(story, "{participant:8} {:12} {} (by {})", row.step, row.state, row.trigger_type);
        }
    }
    let _ = writeln!(story, "\n{}", serde_json::to_string(manifests).unwrap_or_default());
    story
}
