//! Participants that are made from their manifest: what a step decides, a function says. So a choreography that nobody has written
//! steps for can be played by the real pipeline.
//!
//! The invariant: a scripted step does nothing but decide and write down that it ran, inside its transaction. Everything else about it
//! is the toolkit's.

use std::{fmt, sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    error::Error,
    event::{Encoded, Event, EventType},
    id::SagaId,
    manifest::{DeclaredStep, Manifest},
    participant::{Contract, Erased, Failure, Known, Participant, Ran, Settled, StepKind, Wire, json, to_json},
    retry::Retry,
    start::{Requested, StartError, StartKey, Started, Starter},
    step::{CallContext, Direction, StepContext},
    transport::BoxFuture,
};

/// The table that a scripted participant writes into: one row each time that a step's own code ran in a transaction that was kept.
pub const EFFECTS: &str = "CREATE TABLE effects (saga TEXT NOT NULL, step TEXT NOT NULL, direction TEXT NOT NULL)";

/// What a scripted step asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Question {
    /// What does it come to? The options are the events that it emits (nothing is one option, where it emits none), and behind them
    /// those that it rejects with. An external step asks it of the other system.
    Outcome,
    /// Does an external step say its no although the call took effect? 1 is yes.
    AfterEffect,
    /// With which event is it taken back?
    Compensated,
    /// With which event does it say that nothing was done?
    NothingDone,
    /// Is the call answered? 0 is yes, 1 is an outcome that nobody knows. With the direction and the number of the attempt.
    Call(Direction, u32),
}

/// Decides for the steps of a scripted participant.
pub trait Decide: Send + Sync + 'static {
    /// Which of `options`, a number below it. The same question gets the same answer: a step may run more than once before one of its
    /// transactions commits, and the other system of an external step keeps its keys.
    fn decide(&self, saga: SagaId, step: &str, question: Question, options: usize) -> usize;
}

impl Participant {
    /// The participant that declares what `manifest` says, and whose steps do what `decide` says. Its database needs [`EFFECTS`].
    /// An error where a step names an event that the manifest does not know.
    ///
    /// Names are leaked: a contract holds what the compiler knows of a step, and only a test has another source for it.
    pub fn scripted(manifest: &Manifest, decide: &Arc<dyn Decide>) -> Result<Self, Error> {
        let mut participant = Participant::new(leak(&manifest.participant));
        for declared in &manifest.steps {
            let contract = contract(manifest, declared)?;
            participant = participant.cast(Scripted { contract, decide: Arc::clone(decide) });
        }
        Ok(participant)
    }
}

impl Starter {
    /// Starts a saga with a scripted step. A repetition under the same key finds the saga that there is.
    pub async fn start_scripted(&self, step: &str, key: &str) -> Result<SagaId, StartError> {
        let (name, step) = self.scripted(step)?;
        let key = StartKey { caller: "script", key, fingerprint: b"" };
        let begin = async |_, cx: &mut StepContext<'_>| Ok((opened(step, cx).await?, ()));
        let (Started::New(saga, ()) | Started::Repeated(saga, ())) = self.start_with(name, key, begin).await?;
        Ok(saga)
    }

    /// Joins a saga with a scripted step.
    pub async fn request_scripted(&self, step: &str, saga: SagaId) -> Result<Requested, StartError> {
        let (name, step) = self.scripted(step)?;
        self.request_with(name, saga, async |cx: &mut StepContext<'_>| opened(step, cx).await).await
    }

    fn scripted(&self, step: &str) -> Result<(&'static str, &dyn Erased), StartError> {
        let at = self.shared.contracts.iter().position(|contract| contract.name == step);
        let at = at.ok_or_else(|| StartError::GaveUp(format!("there is no step {step}")))?;
        Ok((self.shared.contracts[at].name, &*self.shared.participant.steps()[at]))
    }
}

async fn opened(step: &dyn Erased, cx: &mut StepContext<'_>) -> Result<Option<Encoded>, StartError> {
    match step.run(Wire { event_type: "", body: b"" }, None, cx).await {
        Ok(Ran::Emits(event) | Ran::Rejects(event) | Ran::RejectsAfterEffect(event)) => Ok(event),
        Err(Failure::Retry(error)) => Err(StartError::Failed(error)),
        Err(Failure::GiveUp(why) | Failure::Undecodable(why)) => Err(StartError::GaveUp(why)),
    }
}

/// The body of every scripted event.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Body {}

impl Event for Body {
    const TYPE: &'static str = "";
    const TOPIC: &'static str = "";
}

struct Scripted {
    contract: Contract,
    decide: Arc<dyn Decide>,
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.contract.fmt(f)
    }
}

fn leak(text: &str) -> &'static str {
    text.to_owned().leak()
}

fn contract(manifest: &Manifest, step: &DeclaredStep) -> Result<Contract, Error> {
    let event = |name: &String| match manifest.events.get_key_value(name) {
        Some((name, known)) => {
            let (name, topic) = (leak(name), leak(&known.topic));
            Ok(EventType { name, topic, ending: known.ending, ..EventType::of::<Body>() })
        }
        None => Err(Error::Declaration {
            participant: manifest.participant.clone(),
            problem: format!("{} names the event {name}, which the manifest does not know", step.step),
        }),
    };
    let events = |names: &[String]| names.iter().map(event).collect::<Result<Vec<_>, _>>();
    let names = |names: &[String]| names.iter().map(|name| leak(name)).collect::<Vec<_>>().leak() as &'static [_];
    Ok(Contract {
        name: leak(&step.step),
        formerly: names(&step.formerly),
        kind: step.kind,
        on: events(&step.on)?,
        emits: events(&step.emits)?,
        rejects: events(&step.rejects)?,
        compensated_on: events(&step.compensated_on)?,
        compensated: events(&step.compensated)?,
        joins: names(&step.joins),
        first_trigger_wins: step.first_trigger_wins,
        retry: step.retry.policy(),
        timeout: Duration::from_millis(step.timeout_ms),
    })
}

impl Scripted {
    fn ask(&self, saga: SagaId, question: Question, options: usize) -> usize {
        self.decide.decide(saga, self.contract.name, question, options).min(options.saturating_sub(1))
    }

    fn outcome(&self, saga: SagaId) -> usize {
        self.ask(saga, Question::Outcome, self.contract.emits.len().max(1) + self.contract.rejects.len())
    }

    /// The call's outcome, unless nobody learns of it.
    fn answer<T: Serialize>(&self, cx: &CallContext, direction: Direction, answer: &T) -> Result<Vec<u8>, Failure> {
        match self.ask(cx.saga(), Question::Call(direction, cx.attempt()), 2) {
            0 => to_json("reply", answer),
            _ => Err(Failure::Retry("the answer was lost on purpose".into())),
        }
    }

    async fn compensated(&self, question: Question, cx: &mut StepContext<'_>) -> Result<Option<Encoded>, Failure> {
        self.effect(Direction::Compensation, cx).await?;
        let events = &self.contract.compensated;
        Ok(events.get(self.ask(cx.saga(), question, events.len().max(1))).map(encoded))
    }

    async fn effect(&self, direction: Direction, cx: &mut StepContext<'_>) -> Result<(), Failure> {
        let row = (cx.saga().to_string(), self.contract.name, direction.as_str());
        let written = cx.execute("INSERT INTO effects (saga, step, direction) VALUES ($1, $2, $3)", row).await;
        written.map(|_| ()).map_err(|error| Failure::Retry(error.into()))
    }
}

fn encoded(event: &EventType) -> Encoded {
    Encoded { event: *event, subject: None, body: b"{}".to_vec() }
}

fn boxed<'a, T>(result: Result<T, Failure>) -> BoxFuture<'a, Result<T, Failure>>
where
    T: Send + 'a,
{
    Box::pin(std::future::ready(result))
}

impl Erased for Scripted {
    fn contract(&self) -> Contract {
        self.contract.clone()
    }

    fn retry(&self) -> Retry {
        self.contract.retry
    }

    fn timeout(&self) -> Duration {
        self.contract.timeout
    }

    /// Whoever plays it makes its calls, one by one.
    fn calls_at_once(&self) -> usize {
        1
    }

    fn run<'a>(&'a self, _: Wire<'a>, reply: Option<&'a [u8]>, cx: &'a mut StepContext<'_>) -> Settled<'a, Ran> {
        Box::pin(async move {
            let Contract { kind, emits, rejects, .. } = &self.contract;
            let outcome = match reply {
                Some(reply) => json("reply", reply)?,
                None => self.outcome(cx.saga()),
            };
            self.effect(Direction::Forward, cx).await?;
            let Some(no) = outcome.checked_sub(emits.len().max(1)) else {
                return Ok(Ran::Emits(emits.get(outcome).map(encoded)));
            };
            let no = rejects.get(no).map(encoded);
            let took_effect = *kind == StepKind::External && self.ask(cx.saga(), Question::AfterEffect, 2) == 1;
            Ok(if took_effect { Ran::RejectsAfterEffect(no) } else { Ran::Rejects(no) })
        })
    }

    fn call<'a>(&'a self, _: Wire<'a>, cx: &'a CallContext) -> Settled<'a, Vec<u8>> {
        boxed(self.answer(cx, Direction::Forward, &self.outcome(cx.saga())))
    }

    fn reverse<'a>(&'a self, _: Known<'a>, cx: &'a CallContext) -> Settled<'a, Vec<u8>> {
        boxed(self.answer(cx, Direction::Compensation, &()))
    }

    fn compensate<'a>(
        &'a self,
        _: Option<Wire<'a>>,
        _: Wire<'a>,
        cx: &'a mut StepContext<'_>,
    ) -> Settled<'a, Option<Encoded>> {
        Box::pin(self.compensated(Question::Compensated, cx))
    }

    fn nothing_done<'a>(&'a self, _: Wire<'a>, cx: &'a mut StepContext<'_>) -> Settled<'a, Option<Encoded>> {
        Box::pin(self.compensated(Question::NothingDone, cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{DeclaredEvent, DeclaredRetry, FORMAT, KEY};

    struct First;
    impl Decide for First {
        fn decide(&self, _: SagaId, _: &str, _: Question, _: usize) -> usize {
            0
        }
    }

    fn step(name: &str, kind: StepKind) -> DeclaredStep {
        DeclaredStep { timeout_ms: 1_000, ..DeclaredStep::new(name, kind) }
    }

    #[test]
    fn what_is_made_from_a_manifest_declares_that_manifest() {
        let decide: Arc<dyn Decide> = Arc::new(First);
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let event = || DeclaredEvent {
            topic: "a".to_owned(),
            key: KEY.to_owned(),
            ending: None,
            writes: Some(EventType::of::<Body>().shape.written()),
            reads: None,
        };
        let retry = Retry::fixed(Duration::from_secs(2)).attempts(3).patience(Duration::from_secs(9));
        let manifest = Manifest {
            manifest: FORMAT,
            participant: "a".to_owned(),
            version: String::new(),
            group: None,
            steps: vec![
                DeclaredStep { emits: names(&["t.began.v1"]), ..step("begin", StepKind::Start) },
                DeclaredStep {
                    on: names(&["t.began.v1"]),
                    emits: names(&["t.done.v1"]),
                    rejects: names(&["t.refused.v1"]),
                    compensated_on: names(&["t.late.v1"]),
                    compensated: names(&["t.back.v1"]),
                    first_trigger_wins: true,
                    retry: DeclaredRetry::from(&retry),
                    ..step("ask", StepKind::External)
                },
            ],
            events: ["t.began.v1", "t.done.v1", "t.refused.v1", "t.late.v1", "t.back.v1"]
                .map(|name| (name.to_owned(), event()))
                .into(),
        };
        let mut declared = Manifest::of(&Participant::scripted(&manifest, &decide).unwrap());
        assert_eq!(declared.steps, manifest.steps);
        // Which schemas it has follows from what it does with the event.
        assert!(declared.events["t.late.v1"].writes.is_none() && declared.events["t.late.v1"].reads.is_some());
        for event in declared.events.values_mut() {
            (event.writes, event.reads) = (Some(EventType::of::<Body>().shape.written()), None);
        }
        assert_eq!(declared, manifest);

        let unknown = Manifest { events: Default::default(), ..manifest };
        let error = Participant::scripted(&unknown, &decide).unwrap_err().to_string();
        assert!(error.contains("t.began.v1"), "{error}");
    }
}
