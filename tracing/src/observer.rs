//! Turns what a node does into spans and metrics.
//!
//! Two kinds of span, made in two ways. The span of a reaction is a `tracing` span, because the step's own code runs inside it: its
//! logs carry the saga's id, and its spans become children. The span of an emission is made directly, nothing ever runs inside it.
//!
//! The invariant: without an exporter, and below a parent that is not sampled, nothing is recorded, and the context that the
//! trigger carried goes on untouched.

use std::{fmt, time::Duration};

use opentelemetry::{
    Context, KeyValue,
    metrics::{Counter, Gauge, Histogram, Meter, UpDownCounter},
    trace::{Span as _, SpanKind, Status, TraceContextExt, Tracer},
};
use opentelemetry_sdk::trace::SdkTracer;
use saga_core::{
    envelope::TraceContext,
    event::Ending,
    observer::{Emission, Measure, Observer, Outcome, Phase, Reaction, ReactionSpan},
    step::Direction,
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::{names, propagation};

/// Longest text that is taken from outside into a span or a metric, in bytes: enough for any name and the gist of a reason.
const MAX_TEXT: usize = 256;

/// Reactions as spans and metrics. Without a tracer its spans only carry the fields of logs; without a meter nothing is measured.
pub struct OtelObserver {
    tracer: Option<SdkTracer>,
    meters: Option<Meters>,
}

impl OtelObserver {
    /// The tracer must be the one of the OpenTelemetry layer that the process's subscriber has.
    pub fn new(tracer: Option<SdkTracer>, meter: Option<&Meter>) -> Self {
        Self { tracer, meters: meter.map(Meters::new) }
    }
}

impl fmt::Debug for OtelObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtelObserver")
            .field("traces", &self.tracer.is_some())
            .field("metrics", &self.meters.is_some())
            .finish()
    }
}

impl Observer for OtelObserver {
    fn reaction(&self, reaction: &Reaction<'_>) -> Box<dyn ReactionSpan> {
        let span = span_of(reaction);
        let context = self.tracer.as_ref().and_then(|_| activate(&span, reaction));
        Box::new(Observed {
            span,
            traced: context
                .and_then(|context| Some(Traced { tracer: self.tracer.clone()?, context, sends: Vec::new() })),
            meters: self.meters.as_ref().map(|meters| Measured::new(meters, reaction)),
            settled: false,
        })
    }

    fn measure(&self, participant: &str, measure: &Measure<'_>) {
        if let Some(meters) = &self.meters {
            meters.measure(participant, measure);
        }
    }
}

/// The `tracing` span: its fields are what the logs of a step carry.
fn span_of(reaction: &Reaction<'_>) -> Span {
    let (name, kind) = match (reaction.phase, reaction.position, reaction.event) {
        (Phase::Call, ..) => (names::call_span(reaction.step), "client"),
        (Phase::Settle, Some((topic, ..)), _) => (names::process_span(topic), "consumer"),
        // Caused by the start, but delivered by nobody.
        (Phase::Settle, None, Some(_)) => (names::request_span(reaction.step), "internal"),
        (Phase::Settle, None, None) => (names::start_span(reaction.step), "internal"),
    };
    macro_rules! reaction_span {
        ($($parent:tt)*) => {
            tracing::info_span!(
                target: names::SCOPE,
                $($parent)*
                "reaction",
                otel.name = name.as_str(),
                otel.kind = kind,
                { names::CONVERSATION_ID } = %reaction.saga,
                { names::PARTICIPANT } = reaction.participant,
                { names::STEP } = reaction.step,
                { names::DIRECTION } = reaction.direction.as_str(),
                { names::ATTEMPT } = reaction.attempt,
                { names::MESSAGE_ID } = reaction.event.map(|id| id.0.as_str()),
            )
        };
    }
    // A start belongs to whoever asked for it. Everything else belongs to its event, never to what happens to be current.
    if reaction.event.is_none() { reaction_span!() } else { reaction_span!(parent: None,) }
}

/// Gives the span its parent and starts it, which is possible only once and before it is entered. `None` when nothing is recorded
/// under it that the next participant should know of: the headers of the trigger are passed on as they are then.
fn activate(span: &Span, reaction: &Reaction<'_>) -> Option<Context> {
    let asked_for = reaction.event.is_none() && Context::current().span().span_context().is_valid();
    let mut sampled_out = false;
    if !asked_for {
        let parent = propagation::extract(reaction.parent);
        let parent_span = parent.span().span_context().clone();
        sampled_out = parent_span.is_valid() && !parent_span.is_sampled();
        // It fails only where the subscriber has no OpenTelemetry layer, which the look at the context below finds out.
        let _ = span.set_parent(parent);
    }
    let context = span.context();
    // Also under a parent that is not sampled the span is started, so that the spans of the step's own code stay unsampled too.
    if sampled_out || !context.span().span_context().is_valid() {
        return None;
    }
    if context.span().is_recording() {
        describe(&context, reaction);
    }
    Some(context)
}

/// The attributes that logs have no use for.
fn describe(context: &Context, reaction: &Reaction<'_>) {
    let span = context.span();
    let put = |name: &'static str, value: opentelemetry::Value| span.set_attribute(KeyValue::new(name, value));
    if let Some(event_type) = reaction.event_type {
        put(names::EVENT_TYPE, clip(event_type).into());
    }
    if reaction.phase == Phase::Call {
        return;
    }
    if let Some((topic, partition, offset)) = reaction.position {
        put(names::DESTINATION, topic.to_owned().into());
        put(names::PARTITION, partition.to_string().into());
        put(names::OFFSET, offset.into());
    }
    if reaction.event.is_some() {
        put(names::MESSAGING_SYSTEM, names::KAFKA.into());
        put(names::OPERATION_NAME, names::PROCESS.into());
        put(names::OPERATION_TYPE, names::PROCESS.into());
    }
}

/// One reaction under way.
struct Observed {
    // Dropped in this order: what was sent ends before what sent it.
    traced: Option<Traced>,
    span: Span,
    meters: Option<Measured>,
    settled: bool,
}

struct Traced {
    tracer: SdkTracer,
    context: Context,
    sends: Vec<opentelemetry_sdk::trace::Span>,
}

impl ReactionSpan for Observed {
    fn span(&self) -> Span {
        self.span.clone()
    }

    fn emit(&mut self, emission: &Emission<'_>) -> Option<TraceContext> {
        if let (Some(measured), Some(ending)) = (&mut self.meters, emission.ending) {
            measured.endings.push(ending);
        }
        self.traced.as_mut().map(|traced| traced.emit(emission))
    }

    fn settle(mut self: Box<Self>, outcome: &Outcome, took: Duration) {
        self.settled = true;
        if let Some(traced) = &self.traced {
            let span = traced.context.span();
            span.set_attribute(KeyValue::new(names::OUTCOME, outcome.as_str()));
            if let Outcome::Deferred(reason) | Outcome::Stuck(reason) = outcome {
                span.set_attribute(KeyValue::new(names::ERROR_TYPE, outcome.as_str()));
                span.set_status(Status::error(clip(reason)));
            }
        }
        if let Some(measured) = self.meters.take() {
            measured.settle(outcome, took);
        }
    }
}

impl Traced {
    fn emit(&mut self, emission: &Emission<'_>) -> TraceContext {
        let mut send = self
            .tracer
            .span_builder(names::send_span(emission.topic))
            .with_kind(SpanKind::Producer)
            .start_with_context(&self.tracer, &self.context);
        if send.is_recording() {
            send.set_attributes([
                KeyValue::new(names::MESSAGING_SYSTEM, names::KAFKA),
                KeyValue::new(names::OPERATION_NAME, names::SEND),
                KeyValue::new(names::OPERATION_TYPE, names::SEND),
                KeyValue::new(names::DESTINATION, emission.topic.to_owned()),
                KeyValue::new(names::MESSAGE_ID, emission.id.0.clone()),
                KeyValue::new(names::EVENT_TYPE, emission.event_type.to_owned()),
            ]);
            if let Some(ending) = emission.ending {
                send.set_attribute(KeyValue::new(names::ENDING, ending.as_str()));
            }
        }
        let headers = propagation::inject(&Context::new().with_remote_span_context(send.span_context().clone()));
        // It ends when the transaction does: until then nothing was sent.
        self.sends.push(send);
        headers
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        let Some(traced) = self.traced.as_mut().filter(|_| !self.settled) else { return };
        traced.context.span().set_attribute(KeyValue::new(names::OUTCOME, names::ROLLED_BACK));
        for send in &mut traced.sends {
            send.set_attribute(KeyValue::new(names::OUTCOME, names::ROLLED_BACK));
        }
    }
}

/// The instruments. Cloning one is cheap, it is a handle.
#[derive(Clone)]
struct Meters {
    process: Histogram<f64>,
    call: Histogram<f64>,
    batch: Histogram<f64>,
    batch_size: Histogram<u64>,
    reactions: Counter<u64>,
    started: Counter<u64>,
    ended: Counter<u64>,
    passed: Counter<u64>,
    breakers_open: UpDownCounter<i64>,
    patience_exceeded: Counter<u64>,
    forgotten: Counter<u64>,
    overdue: Gauge<u64>,
    outbox_rows: Gauge<u64>,
    work_rows: Gauge<u64>,
    sent: Counter<u64>,
    consumed: Counter<u64>,
}

impl Meters {
    fn new(meter: &Meter) -> Self {
        // The conventions' boundaries for durations, with three more below: a reaction in a batch takes microseconds.
        let boundaries = vec![
            0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
        ];
        let seconds = |name| meter.f64_histogram(name).with_unit("s").with_boundaries(boundaries.clone()).build();
        let count = |name, unit| meter.u64_counter(name).with_unit(unit).build();
        let gauge = |name, unit| meter.u64_gauge(name).with_unit(unit).build();
        Self {
            process: seconds(names::PROCESS_DURATION),
            call: seconds(names::CALL_DURATION),
            batch: seconds(names::BATCH_DURATION),
            batch_size: meter.u64_histogram(names::BATCH_SIZE).with_unit("{reaction}").build(),
            reactions: count(names::REACTIONS, "{reaction}"),
            started: count(names::STARTED, "{saga}"),
            ended: count(names::ENDED, "{saga}"),
            passed: count(names::PASSED, "{event}"),
            breakers_open: meter.i64_up_down_counter(names::BREAKERS_OPEN).with_unit("{step}").build(),
            patience_exceeded: count(names::PATIENCE_EXCEEDED, "{reaction}"),
            forgotten: count(names::FORGOTTEN, "{saga}"),
            overdue: gauge(names::OVERDUE, "{saga}"),
            outbox_rows: gauge(names::OUTBOX_ROWS, "{event}"),
            work_rows: gauge(names::WORK_ROWS, "{reaction}"),
            sent: count(names::SENT_MESSAGES, "{message}"),
            consumed: count(names::CONSUMED_MESSAGES, "{message}"),
        }
    }

    fn measure(&self, participant: &str, measure: &Measure<'_>) {
        let participant = KeyValue::new(names::PARTICIPANT, participant.to_owned());
        let messages = |operation: &'static str, topic: &str| {
            [
                participant.clone(),
                KeyValue::new(names::MESSAGING_SYSTEM, names::KAFKA),
                KeyValue::new(names::OPERATION_NAME, operation),
                KeyValue::new(names::DESTINATION, topic.to_owned()),
            ]
        };
        match measure {
            Measure::Batch { reactions, took } => {
                self.batch.record(took.as_secs_f64(), std::slice::from_ref(&participant));
                self.batch_size.record(*reactions as u64, &[participant]);
            }
            // A type comes from outside: it is cut here, and the SDK bounds how many different ones it keeps.
            Measure::Passed { event_type } => {
                self.passed.add(1, &[participant, KeyValue::new(names::EVENT_TYPE, clip(event_type))]);
            }
            Measure::Breaker { step, direction, open } => {
                self.breakers_open.add(if *open { 1 } else { -1 }, &reaction(participant, step, *direction));
            }
            Measure::PatienceExceeded { step, direction } => {
                self.patience_exceeded.add(1, &reaction(participant, step, *direction));
            }
            Measure::Forgotten { sagas } => self.forgotten.add(*sagas, &[participant]),
            Measure::Overdue { sagas } => self.overdue.record(*sagas, &[participant]),
            Measure::Outbox { rows } => self.outbox_rows.record(*rows, &[participant]),
            Measure::Work { state, rows } => {
                self.work_rows.record(*rows, &[participant, KeyValue::new(names::WORK_STATE, state.as_str())]);
            }
            Measure::Started => self.started.add(1, &[participant]),
            Measure::Published { topic, messages: sent } => {
                self.sent.add(*sent as u64, &messages(names::SEND, topic));
            }
            Measure::Consumed { topic, messages: consumed } => {
                self.consumed.add(*consumed as u64, &messages(names::RECEIVE, topic));
            }
            _ => {}
        }
    }
}

/// What is measured of one reaction, once it has committed.
struct Measured {
    meters: Meters,
    phase: Phase,
    participant: String,
    step: String,
    endings: Vec<Ending>,
}

impl Measured {
    fn new(meters: &Meters, reaction: &Reaction<'_>) -> Self {
        Self {
            meters: meters.clone(),
            phase: reaction.phase,
            participant: reaction.participant.to_owned(),
            step: reaction.step.to_owned(),
            endings: Vec::new(),
        }
    }

    fn settle(self, outcome: &Outcome, took: Duration) {
        let participant = KeyValue::new(names::PARTICIPANT, self.participant);
        for ending in self.endings {
            self.meters.ended.add(1, &[participant.clone(), KeyValue::new(names::ENDING, ending.as_str())]);
        }
        let attributes =
            [participant, KeyValue::new(names::STEP, self.step), KeyValue::new(names::OUTCOME, outcome.as_str())];
        self.meters.reactions.add(1, &attributes);
        let duration = match self.phase {
            Phase::Settle => &self.meters.process,
            Phase::Call => &self.meters.call,
        };
        duration.record(took.as_secs_f64(), &attributes);
    }
}

fn reaction(participant: KeyValue, step: &str, direction: Direction) -> [KeyValue; 3] {
    let direction = KeyValue::new(names::DIRECTION, direction.as_str());
    [participant, KeyValue::new(names::STEP, step.to_owned()), direction]
}

fn clip(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT)].to_owned()
}
