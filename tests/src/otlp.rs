//! A collector for tests: takes what a service exports over OTLP gRPC and keeps it, so that a test can ask which span is whose child.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind},
};
use tokio::task::JoinHandle;
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

/// A span as it arrived. Ids are in hexadecimal, as in a `traceparent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedSpan {
    /// Of which trace.
    pub trace_id: String,
    /// Its own id.
    pub span_id: String,
    /// The id of its parent; `None` for a root.
    pub parent_span_id: Option<String>,
    /// Its name.
    pub name: String,
    /// `internal`, `server`, `client`, `producer` or `consumer`.
    pub kind: &'static str,
    /// `service.name` of who sent it.
    pub service: String,
    /// True when its status is an error.
    pub error: bool,
    /// Its attributes, as text.
    pub attributes: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default)]
struct Received {
    spans: Arc<Mutex<Vec<ReceivedSpan>>>,
    metrics: Arc<Mutex<BTreeMap<String, usize>>>,
}

/// A collector on a free port of this machine, until it is dropped.
#[derive(Debug)]
pub struct OtlpReceiver {
    address: SocketAddr,
    received: Received,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl OtlpReceiver {
    /// Listens.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let received = Received::default();
        let server = Server::builder()
            .add_service(TraceServiceServer::new(received.clone()))
            .add_service(MetricsServiceServer::new(received.clone()))
            .serve_with_incoming(TcpIncoming::from(listener));
        // Its end is the drop below; until then a failure shows as spans that do not arrive.
        #[allow(clippy::disallowed_methods, reason = "the server of a test lives as long as the receiver")]
        let server = tokio::spawn(server);
        Ok(Self { address, received, server })
    }

    /// The endpoint to export to.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The spans that arrived, in the order of their arrival.
    pub fn spans(&self) -> Vec<ReceivedSpan> {
        lock(&self.received.spans).clone()
    }

    /// The metrics that arrived, by `<service> <name>`, with the number of exports that had them.
    pub fn metrics(&self) -> BTreeMap<String, usize> {
        lock(&self.received.metrics).clone()
    }

    /// The edges from parent to child, as [`edges`] writes them.
    pub fn edges(&self) -> Vec<String> {
        edges(&self.spans())
    }
}

/// The edges from parent to child, one a line and sorted: `order: send order -> payment: process order`.
pub fn edges(spans: &[ReceivedSpan]) -> Vec<String> {
    let mut edges: Vec<String> = spans
        .iter()
        .filter_map(|child| {
            let parent = parent(spans, child)?;
            Some(format!("{}: {} -> {}: {}", parent.service, parent.name, child.service, child.name))
        })
        .collect();
    edges.sort();
    edges
}

/// The parent of a span, among these.
pub fn parent<'s>(spans: &'s [ReceivedSpan], child: &ReceivedSpan) -> Option<&'s ReceivedSpan> {
    spans.iter().find(|span| span.trace_id == child.trace_id && Some(&span.span_id) == child.parent_span_id.as_ref())
}

impl Drop for OtlpReceiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let service = service_name(resource.resource.map(|resource| resource.attributes).unwrap_or_default());
            let arrived = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            lock(&self.spans).extend(arrived.map(|span| received(&service, span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Received {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        for resource in request.into_inner().resource_metrics {
            let service = service_name(resource.resource.map(|resource| resource.attributes).unwrap_or_default());
            for metric in resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
                *lock(&self.metrics).entry(format!("{service} {}", metric.name)).or_default() += 1;
            }
        }
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

fn received(service: &str, span: Span) -> ReceivedSpan {
    ReceivedSpan {
        trace_id: hex(&span.trace_id),
        span_id: hex(&span.span_id),
        parent_span_id: (!span.parent_span_id.is_empty()).then(|| hex(&span.parent_span_id)),
        kind: match span.kind() {
            SpanKind::Server => "server",
            SpanKind::Client => "client",
            SpanKind::Producer => "producer",
            SpanKind::Consumer => "consumer",
            SpanKind::Internal | SpanKind::Unspecified => "internal",
        },
        // 2 is STATUS_CODE_ERROR.
        error: span.status.as_ref().is_some_and(|status| status.code == 2),
        name: span.name,
        service: service.to_owned(),
        attributes: span.attributes.into_iter().map(|attribute| (attribute.key, text(attribute.value))).collect(),
    }
}

fn service_name(attributes: Vec<KeyValue>) -> String {
    attributes
        .into_iter()
        .find(|attribute| attribute.key == "service.name")
        .map(|name| text(name.value))
        .unwrap_or_default()
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(truth)) => truth.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
