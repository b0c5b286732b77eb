//! How the spans of one trace hang together, wherever they were received.

use std::collections::BTreeSet;
use std::fmt;

use saga_tracing::names;

use crate::otlp::{ReceivedSpan, edges, parent};

/// The spans of one trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// In hexadecimal, as in a `traceparent`.
    pub id: String,
    /// In the order in which they began.
    pub spans: Vec<ReceivedSpan>,
}

impl Trace {
    /// The sagas that its spans name.
    pub fn sagas(&self) -> BTreeSet<&str> {
        self.spans.iter().filter_map(|span| span.attributes.get(names::CONVERSATION_ID)).map(String::as_str).collect()
    }

    /// The processes of a service that took part: what a restart changes.
    pub fn instances(&self, service: &str) -> BTreeSet<&str> {
        let of_the_service = self.spans.iter().filter(|span| span.service == service);
        of_the_service.filter_map(|span| span.attributes.get(names::INSTANCE)).map(String::as_str).collect()
    }

    /// The services that took part.
    pub fn services(&self) -> BTreeSet<&str> {
        self.spans.iter().map(|span| span.service.as_str()).collect()
    }

    /// The spans whose parent is not here. A trace in one piece has one, its root.
    pub fn tops(&self) -> impl Iterator<Item = &ReceivedSpan> {
        self.spans.iter().filter(|span| parent(&self.spans, span).is_none())
    }

    /// The edges from parent to child, as [`edges`] writes them.
    pub fn edges(&self) -> Vec<String> {
        edges(&self.spans)
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, span: &ReceivedSpan, depth: usize) -> fmt::Result {
        let width = self.spans.iter().map(|span| span.service.len()).max().unwrap_or_default();
        writeln!(f, "{:width$}  {:indent$}{}", span.service, "", span.name, indent = 2 * depth)?;
        let children = self.spans.iter().filter(|child| child.parent_span_id.as_ref() == Some(&span.span_id));
        children.into_iter().try_for_each(|child| self.write(f, child, depth + 1))
    }
}

/// A tree: service and name of a span, its children below it and indented.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tops().try_for_each(|top| self.write(f, top, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(service: &str, name: &str, id: &str, parent: Option<&str>) -> ReceivedSpan {
        ReceivedSpan {
            trace_id: "1".to_owned(),
            span_id: id.to_owned(),
            parent_span_id: parent.map(str::to_owned),
            name: name.to_owned(),
            kind: "internal",
            service: service.to_owned(),
            error: false,
            attributes: [(names::CONVERSATION_ID.to_owned(), "4711".to_owned())].into(),
        }
    }

    fn trace(spans: Vec<ReceivedSpan>) -> Trace {
        Trace { id: "1".to_owned(), spans }
    }

    #[test]
    fn a_trace_is_shown_as_a_tree() {
        let trace = trace(vec![
            span("order", "start place-order", "1", None),
            span("order", "send order", "2", Some("1")),
            span("payment", "process order", "3", Some("2")),
            span("payment", "call charge-customer", "4", Some("2")),
            span("payment", "send payment", "5", Some("3")),
        ]);
        let tree = "\
order    start place-order
order      send order
payment      process order
payment        send payment
payment      call charge-customer
";
        assert_eq!(trace.to_string(), tree);
        assert_eq!(trace.tops().count(), 1);
        assert!(trace.edges().contains(&"order: send order -> payment: process order".to_owned()));
        assert_eq!(trace.sagas().into_iter().collect::<Vec<_>>(), ["4711"]);
    }

    #[test]
    fn a_span_whose_parent_is_missing_is_a_piece_of_its_own() {
        let spans = vec![span("order", "send order", "2", None), span("payment", "process order", "3", Some("9"))];
        let trace = trace(spans);
        assert_eq!(trace.tops().count(), 2);
        assert_eq!(trace.to_string(), "order    send order\npayment  process order\n");
        assert!(trace.edges().is_empty());
    }
}
