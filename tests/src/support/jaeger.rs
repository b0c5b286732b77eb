//! One Jaeger, started for a check: takes traces over OTLP, keeps them in memory, and is asked for them as its own pages ask.
//!
//! Only what the check needs listens, each on a free port of 127.0.0.1: Jaeger's built-in configuration has a dozen fixed ones.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::{Guarded, Stop, free_ports, last_lines};
use crate::otlp::ReceivedSpan;
use crate::trace::Trace;

/// About a second on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(60);
/// More traces than any check makes.
const MOST: u32 = 10_000;

/// A running Jaeger; dropping it stops it.
#[derive(Debug)]
pub struct Jaeger {
    query: u16,
    otlp: u16,
    client: reqwest::Client,
    // Dropped in this order: its configuration and its log go after the process.
    process: Guarded,
    _directory: TempDir,
}

impl Jaeger {
    /// Starts the program that [`jaeger_binary`](super::jaeger_binary) found, and waits until it answers and takes traces.
    ///
    /// # Errors
    ///
    /// It ended or did not answer; the end of its log is in the message.
    pub async fn start(binary: &Path) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("saga-jaeger-").tempdir()?;
        let [query, grpc, otlp] = free_ports()?;
        let (configuration, log) = (directory.path().join("jaeger.yaml"), directory.path().join("jaeger.log"));
        fs::write(&configuration, self::configuration(query, grpc, otlp))?;
        let output = fs::File::create(&log)?;
        let stop = Stop { signal: "KILL", directory: Some(directory.path()), container: None };
        let mut command = Guarded::command(binary, stop);
        command.arg("--config").arg(&configuration).current_dir(directory.path());
        let process = Guarded::spawn(command.stdout(output.try_clone()?).stderr(output))?;
        let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).no_proxy().build()?;
        let mut jaeger = Self { query, otlp, client, process, _directory: directory };
        match jaeger.wait_until_ready().await {
            Ok(()) => Ok(jaeger),
            Err(error) => {
                let log = fs::read_to_string(&log).unwrap_or_default();
                let program = binary.display();
                anyhow::bail!("{program}: {error}; the end of its log:\n{}", last_lines(&log, 12))
            }
        }
    }

    /// Where to send traces.
    #[must_use]
    pub fn otlp(&self) -> String {
        format!("http://127.0.0.1:{}", self.otlp)
    }

    /// Where its pages and its query API are; the page of a trace is `/trace/<id>`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.query)
    }

    /// The services that sent something, sorted.
    ///
    /// # Errors
    ///
    /// It does not answer, or not as Jaeger does.
    pub async fn services(&self) -> anyhow::Result<Vec<String>> {
        let answer = self.ask("/api/services").await?;
        // No service at all is `null`.
        let names = answer["data"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut names: Vec<String> = names.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    /// Every trace it has, as far as it has arrived.
    ///
    /// # Errors
    ///
    /// It does not answer, or not as Jaeger does.
    pub async fn traces(&self) -> anyhow::Result<Vec<Trace>> {
        // It is asked by service; a trace of several services is in the answer of each.
        let mut traces = BTreeMap::new();
        for service in self.services().await? {
            let answer = self.ask(&format!("/api/traces?service={service}&limit={MOST}")).await?;
            let found = answer["data"].as_array().context("Jaeger's answer has no list of traces")?;
            for trace in found {
                let trace =
                    trace_of(trace).with_context(|| format!("a trace as Jaeger does not write one: {trace}"))?;
                traces.insert(trace.id.clone(), trace);
            }
        }
        Ok(traces.into_values().collect())
    }

    async fn ask(&self, path: &str) -> anyhow::Result<Value> {
        let answer = self.client.get(self.url() + path).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    }

    async fn wait_until_ready(&mut self) -> io::Result<()> {
        let begin = Instant::now();
        loop {
            let takes_traces = TcpStream::connect(("127.0.0.1", self.otlp)).await.is_ok();
            if takes_traces && self.services().await.is_ok() {
                return Ok(());
            }
            if let Some(status) = self.process.ended() {
                return Err(io::Error::other(format!("it ended while it started ({status})")));
            }
            if begin.elapsed() > START_LIMIT {
                return Err(io::Error::other(format!("no Jaeger answers at {}", self.url())));
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Without metrics of its own, which would be served on a fixed port.
fn configuration(query: u16, grpc: u16, otlp: u16) -> String {
    format!(
        r#"service:
  extensions: [jaeger_storage, jaeger_query]
  pipelines:
    traces: {{ receivers: [otlp], exporters: [jaeger_storage_exporter] }}
  telemetry:
    metrics: {{ level: none }}
    logs: {{ level: warn }}
extensions:
  jaeger_storage: {{ backends: {{ memory: {{ memory: {{ max_traces: {MOST} }} }} }} }}
  jaeger_query:
    storage: {{ traces: memory }}
    http: {{ endpoint: "127.0.0.1:{query}" }}
    grpc: {{ endpoint: "127.0.0.1:{grpc}" }}
receivers:
  otlp: {{ protocols: {{ grpc: {{ endpoint: "127.0.0.1:{otlp}" }} }} }}
exporters:
  jaeger_storage_exporter: {{ trace_storage: memory }}
"#
    )
}

/// A trace of the query API's JSON; what the process of a span says of itself is among the span's attributes.
fn trace_of(trace: &Value) -> Option<Trace> {
    let id = trace["traceID"].as_str()?.to_owned();
    let mut spans: Vec<&Value> = trace["spans"].as_array()?.iter().collect();
    // Microseconds: the order of the list is not promised.
    spans.sort_by_key(|span| span["startTime"].as_u64());
    let spans: Option<Vec<ReceivedSpan>> =
        spans.into_iter().map(|span| span_of(span, &trace["processes"][span["processID"].as_str()?])).collect();
    Some(Trace { id, spans: spans? })
}

fn span_of(span: &Value, process: &Value) -> Option<ReceivedSpan> {
    let references = span["references"].as_array().map(Vec::as_slice).unwrap_or_default();
    let parent = references.iter().find(|reference| reference["refType"] == "CHILD_OF");
    let tags = [&process["tags"], &span["tags"]].into_iter().filter_map(Value::as_array).flatten();
    let attributes: BTreeMap<String, String> = tags
        .filter_map(|tag| {
            let value = tag["value"].as_str().map_or_else(|| tag["value"].to_string(), str::to_owned);
            Some((tag["key"].as_str()?.to_owned(), value))
        })
        .collect();
    let kinds = ["server", "client", "producer", "consumer"];
    let kind = attributes.get("span.kind").and_then(|kind| kinds.into_iter().find(|known| known == kind));
    Some(ReceivedSpan {
        trace_id: span["traceID"].as_str()?.to_owned(),
        span_id: span["spanID"].as_str()?.to_owned(),
        parent_span_id: parent.and_then(|parent| parent["spanID"].as_str()).map(str::to_owned),
        name: span["operationName"].as_str()?.to_owned(),
        kind: kind.unwrap_or("internal"),
        service: process["serviceName"].as_str()?.to_owned(),
        error: attributes.get("error").is_some_and(|error| error == "true"),
        attributes,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_endpoint_is_on_loopback() {
        let configuration = configuration(1001, 1002, 1003);
        let endpoints: Vec<&str> = configuration.split("endpoint: ").skip(1).collect();
        assert_eq!(endpoints.len(), 3);
        assert!(endpoints.iter().all(|endpoint| endpoint.starts_with("\"127.0.0.1:100")), "{configuration}");
    }

    /// As Jaeger 2.13 answers, shortened.
    #[test]
    fn a_trace_is_read_with_parents_services_and_what_a_process_says_of_itself() {
        let tag = |key: &str, value: &str| json!({ "key": key, "type": "string", "value": value });
        let answer = json!({
            "traceID": "81d0",
            "spans": [
                { "traceID": "81d0", "spanID": "02", "operationName": "send order", "startTime": 20, "processID": "p1",
                  "references": [{ "refType": "CHILD_OF", "traceID": "81d0", "spanID": "01" }],
                  "tags": [tag("span.kind", "producer"), { "key": "error", "type": "bool", "value": true }] },
                { "traceID": "81d0", "spanID": "01", "operationName": "start place-order", "startTime": 10,
                  "processID": "p1", "references": [], "tags": [tag("span.kind", "internal")] },
            ],
            "processes": { "p1": { "serviceName": "order", "tags": [tag("service.instance.id", "7")] } },
        });
        let trace = trace_of(&answer).unwrap();
        let [start, send] = trace.spans.as_slice() else { panic!("{trace:?}") };
        assert_eq!(
            (start.name.as_str(), start.kind, start.parent_span_id.as_deref()),
            ("start place-order", "internal", None)
        );
        assert_eq!(
            (send.service.as_str(), send.kind, send.parent_span_id.as_deref()),
            ("order", "producer", Some("01"))
        );
        assert!(send.error && !start.error);
        assert_eq!(trace.instances("order").into_iter().collect::<Vec<_>>(), ["7"]);
    }

    #[test]
    fn an_answer_of_another_shape_is_no_trace() {
        assert_eq!(trace_of(&json!({ "traceID": "81d0", "spans": [{}], "processes": {} })), None);
    }
}
