//! What was done to the services and when: a JSON object a line, for whoever looks for the cause of a violation.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write as _},
    path::Path,
    sync::{Mutex, PoisonError},
};

use saga_core::clock::Clock;
use serde_json::{Value, json};

/// A file that grows by a line for each thing that happens.
#[derive(Debug)]
pub struct Journal {
    file: Mutex<File>,
    counts: Mutex<BTreeMap<String, u64>>,
    clock: Clock,
    begun: i64,
}

impl Journal {
    /// Creates the file.
    pub fn create(path: &Path) -> io::Result<Self> {
        let clock = Clock::system();
        let begun = clock.now();
        Ok(Self { file: Mutex::new(File::create(path)?), counts: Mutex::default(), clock, begun })
    }

    /// Writes what happened, with the time: milliseconds since the Unix epoch, and since the beginning.
    pub fn tell(&self, what: &str, more: &Value) {
        let now = self.clock.now();
        let line = json!({ "at": now, "ms": now - self.begun, "what": what, "more": more });
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = writeln!(file, "{line}") {
            eprintln!("the journal cannot be written ({error}): {line}");
        }
    }

    /// Writes that a fault begins, and counts it by its kind.
    pub fn count(&self, kind: &str, more: &Value) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(kind.to_owned()).or_default() += 1;
        self.tell(kind, more);
    }

    /// How often each kind of fault began.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
