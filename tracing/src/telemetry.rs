//! Sets up the logs, traces and metrics of a process, and takes them down.
//!
//! Logs go to standard error. Traces and metrics go to an OTLP endpoint where there is one; without one there is no OpenTelemetry in
//! the process at all. The invariant: what cannot be sent is dropped and counted. Nothing here waits for a collector, except
//! [`Telemetry::shutdown`], and that for two seconds at most.

use std::{
    fmt,
    io::IsTerminal as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use opentelemetry::{KeyValue, metrics::MeterProvider as _, trace::TracerProvider as _};
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    metrics::SdkMeterProvider,
    propagation::TraceContextPropagator,
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, IdGenerator as _, RandomIdGenerator, Sampler, SdkTracer,
        SdkTracerProvider, SpanData, SpanExporter as ExportSpans,
    },
};
use saga_core::observer::Observer;
use tracing::{
    Dispatch, Metadata,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    field::RecordFields,
    filter::dynamic_filter_fn,
    fmt::{FormatFields, MakeWriter, format::Writer},
    layer::SubscriberExt as _,
    registry::LookupSpan,
};

use crate::{names, observer::OtelObserver};

/// Spans that wait for export: about a second of a busy node, and some 16 MB at most. Beyond it they are dropped.
const QUEUE: usize = 16_384;
/// Spans in one export. At the SDK's 512 a busy node is an export every few milliseconds.
const BATCH: usize = 2_048;
/// How often spans are exported: soon enough that a trace is there when a person looks.
const EVERY: Duration = Duration::from_secs(1);
/// How long one export may take.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the end of the process may wait for the last export.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);
/// What carries the spans away, and what it stands on: a span of theirs would be exported, which makes another span.
const NEVER_TRACED: [&str; 7] = ["opentelemetry", "tonic", "h2", "hyper", "tower", "rustls", "saga_tracing"];

/// How logs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl std::str::FromStr for LogFormat {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> anyhow::Result<Self> {
        match word {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => anyhow::bail!("expected text or json"),
        }
    }
}

/// What a process tells about itself, and where to.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `service.name`: the participant's name.
    pub service: String,
    /// The OTLP gRPC endpoint, such as `http://localhost:4317`. Without one nothing is exported.
    pub otlp: Option<String>,
    /// How logs look.
    pub log: LogFormat,
    /// Which part of the traces that start here is recorded, from 0 to 1. Others are recorded if their parent is.
    pub sample: f64,
}

/// The telemetry of this process. Keep it until the end, and [`shutdown`](Self::shutdown) then.
pub struct Telemetry {
    observer: Arc<OtelObserver>,
    traces: Option<SdkTracerProvider>,
    lost: Arc<AtomicU64>,
    metrics: Option<SdkMeterProvider>,
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").field("observer", &self.observer).finish_non_exhaustive()
    }
}

/// Sets the process up: the subscriber of `tracing`, filtered for logs by `RUST_LOG` (default `info`), and the W3C propagator. With
/// an endpoint it needs a Tokio runtime, which carries the export.
pub fn init(config: Config) -> anyhow::Result<Telemetry> {
    let (telemetry, dispatch) = prepare(config)?;
    tracing::dispatcher::set_global_default(dispatch).context("the process has a tracing subscriber already")?;
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    Ok(telemetry)
}

/// Like [`init`], with the subscriber handed out instead of installed: for several services in one process.
pub fn prepare(config: Config) -> anyhow::Result<(Telemetry, Dispatch)> {
    ensure!((0.0..=1.0).contains(&config.sample), "sample is {}, expected 0 to 1", config.sample);
    let logs = logs(config.log, std::io::stderr);
    let Some(endpoint) = config.otlp else {
        let observer = Arc::new(OtelObserver::new(None, None));
        let telemetry = Telemetry { observer, traces: None, lost: Arc::default(), metrics: None };
        return Ok((telemetry, Dispatch::new(Registry::default().with(logs))));
    };
    ensure!(
        endpoint.starts_with("http://") || endpoint.starts_with("https://"),
        "the OTLP endpoint is {endpoint:?}, expected a URL such as http://localhost:4317"
    );
    tokio::runtime::Handle::try_current().context("the export to an OTLP endpoint needs a Tokio runtime")?;

    // Two instances of a participant count separately: without an id of their own their counters would overwrite each other.
    let instance = RandomIdGenerator::default().new_trace_id().to_string();
    let resource = Resource::builder()
        .with_service_name(config.service)
        .with_attribute(KeyValue::new(names::INSTANCE, instance))
        .build();
    let lost = Arc::default();
    let traces = traces(&endpoint, config.sample, resource.clone(), Arc::clone(&lost))?;
    let metrics = metrics(&endpoint, resource)?;
    let tracer = traces.tracer(names::SCOPE);
    let observer = Arc::new(OtelObserver::new(Some(tracer.clone()), Some(&metrics.meter(names::SCOPE))));
    let dispatch = Dispatch::new(Registry::default().with(logs).with(spans(tracer)));
    Ok((Telemetry { observer, traces: Some(traces), lost, metrics: Some(metrics) }, dispatch))
}

impl Telemetry {
    /// What a node is given to be observed by.
    pub fn observer(&self) -> Arc<dyn Observer> {
        self.observer.clone()
    }

    /// Sends what is left, for two seconds at most. An error says that something was lost, and is no reason to fail.
    pub async fn shutdown(self) -> anyhow::Result<()> {
        let (Some(traces), Some(metrics)) = (self.traces, self.metrics) else { return Ok(()) };
        let traces = off_the_runtime(move || traces.shutdown_with_timeout(SHUTDOWN_TIMEOUT))?;
        let metrics = off_the_runtime(move || metrics.shutdown_with_timeout(SHUTDOWN_TIMEOUT))?;
        let both = async { (traces.await, metrics.await) };
        let (traces, metrics) = tokio::time::timeout(SHUTDOWN_TIMEOUT, both)
            .await
            .context("the OTLP endpoint did not take the rest in time")?;
        traces?.context("the last traces were not exported")?;
        metrics?.context("the last metrics were not exported")?;
        let lost = self.lost.load(Ordering::Relaxed);
        ensure!(lost == 0, "the last {lost} spans were not exported");
        Ok(())
    }
}

/// A shutdown of the SDK blocks. It gets a thread of its own, because a blocking task of the runtime that hangs would keep the
/// runtime, and with it the process, from ending.
fn off_the_runtime(
    shutdown: impl FnOnce() -> OTelSdkResult + Send + 'static,
) -> anyhow::Result<tokio::sync::oneshot::Receiver<OTelSdkResult>> {
    let (done, result) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("telemetry-shutdown".to_owned()).spawn(move || {
        // Nobody is left to tell when the time is over.
        let _ = done.send(shutdown());
    })?;
    Ok(result)
}

fn logs<S, W>(format: LogFormat, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'s> LookupSpan<'s>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Json => layer.json().with_filter(filter).boxed(),
        LogFormat::Text => layer.fmt_fields(ForPeople).with_filter(filter).boxed(),
    }
}

/// Leaves out `otel.name` and `otel.kind`, which a span carries for its exporter.
#[derive(Debug)]
struct ForPeople;

impl<'w> FormatFields<'w> for ForPeople {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut line = Line { writer, begun: false, result: Ok(()) };
        fields.record(&mut line);
        line.result
    }
}

struct Line<'w> {
    writer: Writer<'w>,
    begun: bool,
    result: fmt::Result,
}

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let name = field.name();
        if self.result.is_err() || name.starts_with("otel.") {
            return;
        }
        let space = if self.begun { " " } else { "" };
        self.begun = true;
        self.result = match name {
            "message" => write!(self.writer, "{space}{value:?}"),
            _ => write!(self.writer, "{space}{name}={value:?}"),
        };
    }
}

/// The layer that makes traces of spans. Events stay in the logs: a span has no room for whatever a log line says.
fn spans<S>(tracer: SdkTracer) -> impl Layer<S>
where
    S: tracing::Subscriber + for<'s> LookupSpan<'s>,
{
    tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_level(false)
        .with_tracked_inactivity(false)
        // Dynamic on purpose. What a static filter says of a callsite is kept, and it is not asked again; but whether a layer sees a
        // span is told by the last question that was asked on the thread, such as `enabled!` of the database driver. So spans were lost.
        .with_filter(dynamic_filter_fn(|metadata, _| is_traced(metadata)).with_max_level_hint(LevelFilter::INFO))
}

fn is_traced(metadata: &Metadata<'_>) -> bool {
    let krate = metadata.target().split("::").next().unwrap_or_default();
    metadata.is_span()
        && *metadata.level() <= tracing::Level::INFO
        && !NEVER_TRACED.iter().any(|never| krate == *never || krate.starts_with("opentelemetry"))
}

fn traces(endpoint: &str, sample: f64, resource: Resource, lost: Arc<AtomicU64>) -> anyhow::Result<SdkTracerProvider> {
    let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(EXPORT_TIMEOUT).build()?;
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(QUEUE)
        .with_max_export_batch_size(BATCH)
        .with_scheduled_delay(EVERY)
        .build();
    let processor = BatchSpanProcessor::builder(Reported { exporter, lost }).with_batch_config(batches).build();
    Ok(SdkTracerProvider::builder()
        .with_span_processor(processor)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(sample))))
        .with_resource(resource)
        .build())
}

fn metrics(endpoint: &str, resource: Resource) -> anyhow::Result<SdkMeterProvider> {
    let exporter =
        MetricExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(EXPORT_TIMEOUT).build()?;
    Ok(SdkMeterProvider::builder().with_periodic_exporter(exporter).with_resource(resource).build())
}

/// Says once that a collector is away, and how much was lost when it is back. The SDK says it at every attempt.
#[derive(Debug)]
struct Reported<E> {
    exporter: E,
    lost: Arc<AtomicU64>,
}

impl<E: ExportSpans> ExportSpans for Reported<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        match self.exporter.export(batch).await {
            Ok(()) => {
                let lost = self.lost.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    tracing::warn!(lost, "traces are exported again");
                }
            }
            Err(error) => {
                if self.lost.fetch_add(spans, Ordering::Relaxed) == 0 {
                    tracing::warn!(%error, "traces cannot be exported, spans are dropped until they can");
                }
            }
        }
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Mutex, PoisonError},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat) -> String {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = Registry::default().with(logs(format, move || writer.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("reaction", otel.name = "process orders", { names::STEP } = "charge");
            span.in_scope(|| tracing::info!(amount = 3, "charged"));
        });
        let bytes = written.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        String::from_utf8(bytes).expect("logs are text")
    }

    #[test]
    fn a_log_line_says_which_step_wrote_it() {
        let text = logged(LogFormat::Text);
        assert!(
            text.ends_with("reaction{saga.step=\"charge\"}: saga_tracing::telemetry::tests: charged amount=3\n"),
            "{text}"
        );
        let json = logged(LogFormat::Json);
        assert!(json.contains("\"saga.step\":\"charge\""), "{json}");
    }

    #[test]
    fn a_process_is_set_up_once() {
        let config = || Config { service: "order".to_owned(), otlp: None, log: LogFormat::Text, sample: 1.0 };
        init(config()).expect("the first time");
        let again = init(config()).expect_err("the second time");
        assert_eq!(again.to_string(), "the process has a tracing subscriber already");
    }
}
