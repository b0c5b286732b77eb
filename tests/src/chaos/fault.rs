//! The faults, and the plan that a seed draws.

use std::time::Duration;

use saga_core::clock::Clock;
use serde::Serialize;

use super::proxy::Moment;

/// Frozen for longer than a group keeps a silent member (10 s), a process is a zombie: its partitions are somebody else's.
const ZOMBIE: (u64, u64) = (11_500, 16_000);

/// Something that breaks, and is mended after a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Fault {
    /// `kill -9` of a service, or of the gateway, which starts again after a while.
    Kill {
        /// Which.
        instance: String,
    },
    /// SIGSTOP, and SIGCONT after a while.
    Freeze {
        /// Which.
        instance: String,
    },
    /// SIGTERM, and a start after a while.
    Stop {
        /// Which.
        instance: String,
    },
    /// `kill -9` of the broker, which starts again on its data.
    KillKafka,
    /// PostgreSQL ends without a checkpoint, and starts again on its data.
    KillPostgres {
        /// By SIGQUIT instead of `kill -9`.
        politely: bool,
    },
    /// Connections to PostgreSQL are cut.
    CutPostgres {
        /// When.
        moment: Moment,
    },
    /// Connections to Kafka are cut.
    CutKafka {
        /// When.
        moment: Moment,
    },
    /// PostgreSQL does not answer for a while.
    StallPostgres,
    /// Kafka does not answer for a while.
    StallKafka,
    /// The gateway behaves badly for a while.
    BadGateway {
        /// Its options.
        behaviour: Vec<(String, String)>,
    },
    /// Two more instances for a while; then they are stopped.
    Scale {
        /// Of whom.
        participant: String,
    },
}

/// A fault at its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// Since the beginning, in milliseconds.
    pub at: u64,
    /// For so many milliseconds.
    pub lasts: u64,
    /// What.
    #[serde(flatten)]
    pub fault: Fault,
}

impl Fault {
    /// Its kind, for counting.
    pub fn kind(&self) -> String {
        match self {
            Self::Kill { instance } => format!("kill -9 {instance}"),
            Self::Freeze { instance } => format!("freeze {instance}"),
            Self::Stop { instance } => format!("stop {instance}"),
            Self::KillKafka => "kill -9 kafka".to_owned(),
            Self::KillPostgres { politely: true } => "immediate stop of postgres".to_owned(),
            Self::KillPostgres { politely: false } => "kill -9 postgres".to_owned(),
            Self::CutPostgres { moment } => format!("cut postgres {moment:?}"),
            Self::CutKafka { moment } => format!("cut kafka {moment:?}"),
            Self::StallPostgres => "stall postgres".to_owned(),
            Self::StallKafka => "stall kafka".to_owned(),
            Self::BadGateway { behaviour } => {
                format!("gateway {}", behaviour.first().map_or("", |(name, _)| name.as_str()))
            }
            Self::Scale { participant } => format!("scale {participant} 1-3-1"),
        }
    }

    /// A server that is killed again before it is up has been away for longer, and nothing was learned.
    fn recovery(&self) -> u64 {
        if ["kafka", "postgres"].contains(&self.breaks()) { 15_000 } else { 2_000 }
    }

    /// What it breaks: two faults never break one thing at a time.
    fn breaks(&self) -> &str {
        match self {
            Self::Kill { instance } | Self::Freeze { instance } | Self::Stop { instance } => instance,
            Self::KillKafka | Self::StallKafka => "kafka",
            Self::KillPostgres { .. } | Self::StallPostgres => "postgres",
            Self::CutPostgres { .. } | Self::CutKafka { .. } => "",
            Self::BadGateway { .. } => "gateway",
            Self::Scale { participant } => {
                if participant == "payment" {
                    "more payment"
                } else {
                    "more shipping"
                }
            }
        }
    }
}

/// Draws the faults of `minutes`. The same seed draws the same plan.
pub fn plan(seed: u64, duration: Duration) -> Vec<Planned> {
    let random = Clock::manual(0, seed);
    let draw = |from: u64, to: u64| from + random.random() % (to - from);
    let end = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut planned: Vec<Planned> = Vec::new();
    let mut at = draw(1_000, 3_000);
    while at < end {
        let (fault, lasts) = one(&draw);
        let lasts = lasts.min(end - at);
        let overlaps =
            |other: &Planned| other.fault.breaks() == fault.breaks() && other.at + other.lasts + fault.recovery() > at;
        if fault.breaks().is_empty() || !planned.iter().any(overlaps) {
            planned.push(Planned { at, lasts, fault });
            at += draw(300, 3_500);
        }
        at += 50;
    }
    planned
}

fn one(draw: &impl Fn(u64, u64) -> u64) -> (Fault, u64) {
    let service = || ["order", "payment", "shipping"][usize::try_from(draw(0, 3)).unwrap_or(0)].to_owned();
    let moment =
        || [Moment::Now, Moment::BeforeRequest, Moment::BeforeAnswer][usize::try_from(draw(0, 3)).unwrap_or(0)];
    match draw(0, 100) {
        0..20 => (Fault::Kill { instance: service() }, draw(0, 4_000)),
        20..23 => (Fault::Kill { instance: "gateway".to_owned() }, draw(0, 4_000)),
        23..28 => (Fault::Freeze { instance: service() }, draw(ZOMBIE.0, ZOMBIE.1)),
        28..38 => (Fault::Stop { instance: service() }, draw(0, 1_500)),
        38..42 => (Fault::KillKafka, draw(0, 5_000)),
        42..47 => (Fault::KillPostgres { politely: draw(0, 2) == 0 }, draw(0, 4_000)),
        47..65 => (Fault::CutPostgres { moment: moment() }, 0),
        65..80 => (Fault::CutKafka { moment: moment() }, 0),
        80..83 => (Fault::StallPostgres, draw(1_000, 9_000)),
        83..86 => (Fault::StallKafka, draw(1_000, 9_000)),
        86..94 => (bad_gateway(draw), draw(3_000, 15_000)),
        94..97 => (Fault::Scale { participant: "payment".to_owned() }, draw(6_000, 15_000)),
        _ => (Fault::Scale { participant: "shipping".to_owned() }, draw(6_000, 15_000)),
    }
}

fn bad_gateway(draw: &impl Fn(u64, u64) -> u64) -> Fault {
    let option = |name: &str, value: String| (format!("GATEWAY_{name}"), value);
    let mut behaviour = match draw(0, 3) {
        0 => vec![option("FAIL_EVERY", draw(1, 4).to_string())],
        1 => vec![option("LOSE_EVERY", draw(1, 4).to_string())],
        _ => vec![option("SLOW_MS", draw(200, 3_000).to_string())],
    };
    if draw(0, 2) == 0 {
        behaviour.push(option("FORGET_REFUSALS", "true".to_owned()));
    }
    Fault::BadGateway { behaviour }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_one_plan_with_every_kind_of_fault_and_no_two_at_one_thing() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let planned = plan(7, minutes(60));
        assert_eq!(planned, plan(7, minutes(60)));
        assert_ne!(planned, plan(8, minutes(60)));
        let kinds: std::collections::BTreeSet<String> = planned.iter().map(|planned| planned.fault.kind()).collect();
        assert_eq!(kinds.len(), 10 + 3 + 6 + 2 + 3 + 2, "{kinds:?}");
        for (i, one) in planned.iter().enumerate() {
            let same = |other: &&Planned| other.fault.breaks() == one.fault.breaks() && !one.fault.breaks().is_empty();
            let next = planned[i + 1..].iter().find(same);
            assert!(next.is_none_or(|next| next.at >= one.at + one.lasts), "{one:?} {next:?}");
        }
        assert!(planned.iter().all(|planned| planned.at + planned.lasts <= 60 * 60_000));
    }
}
