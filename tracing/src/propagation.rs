//! W3C Trace Context between an event's headers and OpenTelemetry.
//!
//! The invariant: headers that are no valid trace context are no parent, and never an error.

use opentelemetry::{
    Context,
    propagation::{Extractor, Injector, TextMapPropagator},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use saga_core::envelope::{MAX_ATTRIBUTE, TraceContext};

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// The remote context that an event carried; an invalid one when it carried none.
pub(crate) fn extract(headers: &TraceContext) -> Context {
    // From an empty context: whatever is current on this thread is not the parent of a delivery.
    TraceContextPropagator::new().extract_with_context(&Context::new(), &Carried(headers))
}

/// The headers that carry this context to the next participant.
pub(crate) fn inject(context: &Context) -> TraceContext {
    let mut headers = Carrying(TraceContext::default());
    TraceContextPropagator::new().inject_context(context, &mut headers);
    headers.0
}

struct Carried<'h>(&'h TraceContext);

impl Extractor for Carried<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            TRACEPARENT => self.0.traceparent.as_deref(),
            TRACESTATE => self.0.tracestate.as_deref(),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT, TRACESTATE]
    }
}

struct Carrying(TraceContext);

impl Injector for Carrying {
    fn set(&mut self, key: &str, value: String) {
        match key {
            TRACEPARENT => self.0.traceparent = Some(value),
            // An empty one says nothing, and one beyond the envelope's bound would keep the event from being sent.
            TRACESTATE if !value.is_empty() && value.len() <= MAX_ATTRIBUTE => self.0.tracestate = Some(value),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TraceContextExt;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(traceparent: &str, tracestate: Option<String>) -> TraceContext {
        TraceContext { traceparent: Some(traceparent.to_owned()), tracestate }
    }

    #[test]
    fn a_context_comes_out_as_it_went_in() {
        let carried = headers(PARENT, Some("vendor=value".to_owned()));
        assert_eq!(inject(&extract(&carried)), carried);
    }

    #[test]
    fn what_is_no_context_is_no_parent() {
        for nonsense in ["", "hello", "00-00000000000000000000000000000000-b7ad6b7169203331-01", "ff-0-0-0"] {
            assert!(!extract(&headers(nonsense, None)).has_active_span(), "{nonsense:?}");
        }
        assert!(!extract(&TraceContext::default()).has_active_span());
    }

    #[test]
    fn a_tracestate_beyond_the_bound_of_the_envelope_is_left_behind() {
        let carried = headers(PARENT, Some(format!("vendor={}", "x".repeat(MAX_ATTRIBUTE))));
        assert_eq!(inject(&extract(&carried)).tracestate, None);
    }
}
