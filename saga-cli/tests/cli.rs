//! The real binary, on SQLite files that a participant has left.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use saga_core::{
    Compensate, Event, Local, Never, Participant, Step, StepContext, StepResult,
    clock::Clock,
    envelope::Envelope,
    id::SagaId,
    node::Node,
    observer::Unseen,
    step::{MustSucceed, give_up},
    store::{Store, WorkRow, WorkState},
    transport::memory::MemoryBroker,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

macro_rules! event {
    ($name:ident, $type:literal) => {
        event!($name, $type, "desk");
    };
    ($name:ident, $type:literal, $topic:literal) => {
        #[derive(Debug, Serialize, Deserialize, JsonSchema)]
        struct $name {}
        impl Event for $name {
            const TYPE: &'static str = $type;
            const TOPIC: &'static str = $topic;
        }
    };
}
event!(Asked, "shop.desk.asked.v1");
event!(Booked, "shop.desk.booked.v1");
event!(Unbooked, "shop.desk.unbooked.v1");
event!(Cancelled, "shop.desk.cancelled.v1");
event!(Greeted, "shop.desk.greeted.v1");
event!(Called, "shop.desk.called.v1");
event!(Echoed, "shop.hall.echoed.v1", "hall");

/// Gives up as long as its fault lasts.
struct Book(Arc<AtomicBool>);
impl Step for Book {
    const NAME: &'static str = "book";
    type On = Asked;
    type Emits = Booked;
    type Rejects = Never;
    type CompensatedOn = Cancelled;
}
impl Local for Book {
    async fn run(&self, _: Asked, _: &mut StepContext<'_>) -> StepResult<Self> {
        if self.0.load(Ordering::SeqCst) { give_up("no \u{1b}[31mdesk") } else { Ok(Booked {}) }
    }
}
impl Compensate for Book {
    type Compensated = Unbooked;
    async fn compensate(&self, _: Booked, _: Cancelled, _: &mut StepContext<'_>) -> MustSucceed<Unbooked> {
        if self.0.load(Ordering::SeqCst) { give_up("closed") } else { Ok(Unbooked {}) }
    }
    async fn nothing_done(&self, _: Cancelled, _: &mut StepContext<'_>) -> MustSucceed<Unbooked> {
        Ok(Unbooked {})
    }
}

struct Greet;
impl Step for Greet {
    const NAME: &'static str = "greet";
    type On = Greeted;
    type Emits = saga_core::Nothing;
    type Rejects = Never;
    type CompensatedOn = Never;
}
impl Local for Greet {
    async fn run(&self, _: Greeted, _: &mut StepContext<'_>) -> StepResult<Self> {
        Ok(saga_core::Nothing)
    }
}

/// Its event goes to a topic that nobody has created.
struct Echo;
impl Step for Echo {
    const NAME: &'static str = "echo";
    type On = Called;
    type Emits = Echoed;
    type Rejects = Never;
    type CompensatedOn = Never;
}
impl Local for Echo {
    async fn run(&self, _: Called, _: &mut StepContext<'_>) -> StepResult<Self> {
        Ok(Echoed {})
    }
}

/// A participant that runs on a file, beside the binary.
struct Desk {
    name: &'static str,
    broken: Arc<AtomicBool>,
    broker: MemoryBroker,
    store: Store,
    node: Node,
    /// NAME=URL.
    database: String,
    dir: tempfile::TempDir,
}

impl Desk {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("desk.db").display());
        Self::on(dir, url, "desk").await
    }

    async fn on(dir: tempfile::TempDir, url: String, name: &'static str) -> Self {
        let broker = MemoryBroker::new(&[("desk", 1)]);
        let broken = Arc::new(AtomicBool::new(true));
        let store = Store::connect(&url, name).await.unwrap();
        store.migrate().await.unwrap();
        let node = Self::node(name, &broken, &broker, &store, Clock::system());
        Self { name, broken, broker, store, node, database: format!("{name}={url}"), dir }
    }

    fn node(name: &'static str, broken: &Arc<AtomicBool>, broker: &MemoryBroker, store: &Store, clock: Clock) -> Node {
        let cast = Participant::new(name).step(Book(broken.clone())).step(Greet).step(Echo);
        let source = broker.source("desk", &cast.listens_to());
        Node::observed(cast, store.clone(), source, broker.sink(), Arc::new(Unseen), clock).unwrap()
    }

    /// The participant publishes what is in the outbox, as it does when the rows are some seconds old.
    async fn sweep(&mut self) -> usize {
        let later = Clock::manual(Clock::system().now() + 10_000, 7);
        self.node = Self::node(self.name, &self.broken, &self.broker, &self.store, later);
        self.node.sweep().await.unwrap()
    }

    fn database(&self) -> String {
        self.database.clone()
    }

    fn saga(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_saga"));
        command.args(arguments).env("SAGA_DATABASE", self.database()).env("USER", "ada").stdin(Stdio::null());
        command.current_dir(self.dir.path());
        command
    }

    /// Runs it, and expects an exit code.
    fn run(&self, code: i32, arguments: &[&str]) -> Output {
        let output = self.saga(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "saga {arguments:?}\n{output:#?}");
        output
    }

    /// What it prints.
    fn prints(&self, arguments: &[&str]) -> String {
        String::from_utf8(self.run(0, arguments).stdout).unwrap()
    }

    /// What it says when it fails.
    fn refuses(&self, arguments: &[&str]) -> String {
        String::from_utf8(self.run(1, arguments).stderr).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.prints(arguments)).unwrap()
    }

    async fn send(&mut self, saga: SagaId, event_type: &str, id: &str) {
        let key = saga.to_string();
        let headers: [(&str, &[u8]); 6] = [
            ("ce_specversion", b"1.0"),
            ("ce_type", event_type.as_bytes()),
            ("ce_id", id.as_bytes()),
            ("ce_source", b"/test"),
            ("ce_sagaid", key.as_bytes()),
            ("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ];
        assert!(self.broker.inject("desk", Some(key.as_bytes()), &headers, b"{\"n\":\"\\u001b[2J\"}"));
        self.settle().await;
    }

    async fn settle(&mut self) {
        for _ in 0..1_000 {
            if !self.node.turn().await.unwrap() {
                return;
            }
        }
        panic!("the participant spins");
    }

    async fn rows(&self) -> Vec<WorkRow> {
        self.store.work(1_000).await.unwrap()
    }

    async fn stuck(&self) -> usize {
        self.rows().await.iter().filter(|row| row.state == WorkState::Stuck).count()
    }

    fn emitted(&self) -> Vec<String> {
        let events = self.broker.messages("desk");
        let events = events.iter().filter_map(|delivery| Envelope::decode(delivery).ok());
        events.filter(|event| event.source != "/test").map(|event| event.event_type).collect()
    }
}

fn mint() -> SagaId {
    SagaId::mint(&Clock::system())
}

#[tokio::test]
async fn what_waits_is_listed_with_what_it_waits_for() {
    let mut desk = Desk::new().await;
    assert_eq!(desk.prints(&["work", "--exit-code"]), "nothing waits\n");
    assert_eq!(desk.prints(&["work", "--json"]), "[]\n");
    let saga = mint();
    desk.send(saga, Asked::TYPE, "a").await;
    desk.send(saga, Greeted::TYPE, "g").await;
    let rows = desk.rows().await;
    let (stuck, parked) = (rows[0].id.0.to_string(), rows[1].id.0.to_string());

    let text = desk.prints(&["work"]);
    let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["PARTICIPANT", "STATE", "EVENT", "AGE", "REACTION", "WHY"]);
    assert_eq!(words[1], ["step", "direction", "attempts", "due", "saga"]);
    assert_eq!([&words[2][..3], &words[2][4..]].concat(), ["desk", "stuck", "DeskAsked", &stuck, "no", "[31mdesk"]);
    assert_eq!(words[3], ["book", "forward", "1", "-", &saga.to_string()]);
    assert_eq!(words[4][..3], ["desk", "parked", "DeskGreeted"]);
    assert!(words[4][4..].starts_with(&[&parked, "behind", "the", "forward", "of", "book,"]), "{text}");
    assert!(!text.contains('\u{1b}') && text.lines().all(|line| line.chars().count() < 180), "{text}");

    let listed = desk.json(&["work", "--json"]);
    assert_eq!(listed[0]["participant"], "desk");
    assert_eq!(listed[0]["reaction"], stuck);
    assert_eq!(listed[0]["saga"], saga.to_string());
    assert_eq!(
        (&listed[0]["state"], &listed[0]["direction"], &listed[0]["attempts"]),
        (&"stuck".into(), &"forward".into(), &1.into())
    );
    assert_eq!((&listed[0]["event_type"], &listed[0]["due"]), (&Asked::TYPE.into(), &Value::Null));
    assert_eq!(listed[1]["behind"]["reaction"], stuck);
    assert_eq!(listed[1]["behind"]["state"], "stuck");

    // Filters, and what they leave.
    let count = |arguments: &[&str]| desk.json(&[&["work", "--json"], arguments].concat()).as_array().unwrap().len();
    assert_eq!(count(&["--state", "parked"]), 1);
    assert_eq!(count(&["--step", "book"]), 1);
    assert_eq!(count(&["--error", "DESK"]), 1);
    assert_eq!(count(&["--error", "desk", "--step", "greet"]), 0);
    assert_eq!(count(&["--saga", &saga.to_string()]), 2);
    assert_eq!(count(&["--saga", &mint().to_string()]), 0);
    assert_eq!(count(&["--older-than", "10m"]), 0);
    assert_eq!(count(&["--limit", "1"]), 1);
    assert!(desk.prints(&["work", "--limit", "1"]).ends_with("1 row, and there are more: --limit N shows them\n"));
    assert_eq!(desk.prints(&["work", "--state", "deferred"]), "nothing waits that passes these filters\n");

    // The exit code looks at everything that passes, not only at what is shown.
    desk.run(0, &["work"]);
    desk.run(3, &["work", "--exit-code"]);
    desk.run(0, &["work", "--exit-code", "--state", "parked"]);
    desk.run(0, &["work", "--exit-code", "--step", "greet"]);
    desk.run(2, &["work", "--state", "lost"]);
}

#[tokio::test]
async fn one_row_is_shown_whole() {
    let mut desk = Desk::new().await;
    let saga = mint();
    desk.send(saga, Asked::TYPE, "a").await;
    let row = desk.rows().await.remove(0);
    let id = row.id.0.to_string();
    let text = desk.prints(&["work", "show", &id]);
    for part in [
        "step         book (forward)",
        "trace        4bf92f3577b34da6a3ce929d0e0e4736",
        "ledger       no row: the step has not run",
        "attempt 1  no  [31mdesk",
        "  ce_type: shop.desk.asked.v1",
        "body (17 bytes)\n  {\"n\":\"\\u001b[2J\"}",
        "next: saga redrive --reaction",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    let whole = desk.json(&["work", "show", &id, "--json"]);
    assert_eq!(whole["failures"][0]["error"], "no  [31mdesk");
    assert_eq!(whole["message"]["body"], "{\"n\":\"\\u001b[2J\"}");
    assert_eq!(whole["message"]["headers"][1], serde_json::json!(["ce_type", Asked::TYPE]));
    assert_eq!(whole["trace"], "4bf92f3577b34da6a3ce929d0e0e4736");

    let missing = desk.refuses(&["work", "show", &mint().to_string()]);
    assert!(missing.contains("waits at desk") && missing.contains("--discarded"), "{missing}");
    desk.run(2, &["work", "show", "4711"]);
}

#[tokio::test]
async fn what_is_stuck_is_redriven_and_the_saga_goes_on() {
    let mut desk = Desk::new().await;
    let saga = mint();
    desk.send(saga, Asked::TYPE, "a").await;
    desk.send(saga, Greeted::TYPE, "g").await;
    desk.send(mint(), Asked::TYPE, "b").await;
    desk.broken.store(false, Ordering::SeqCst);

    let refused = String::from_utf8(desk.run(2, &["redrive", "--yes"]).stderr).unwrap();
    assert!(refused.contains("--all"), "it is said what to choose by: {refused}");
    let dry = desk.prints(&["redrive", "--step", "book", "--dry-run"]);
    assert!(dry.contains("     2  desk  book  forward  shop.desk.asked.v1  stuck: no  [31mdesk"), "{dry}");
    assert!(dry.ends_with("2 reactions would be redriven; nothing was changed\n"), "{dry}");
    let refused = desk.refuses(&["redrive", "--all"]);
    assert!(refused.contains("--yes") && refused.contains("--dry-run"), "{refused}");
    let nothing = desk.prints(
        &["redrive", "--all", "--error", "timeout", "--yes"].map(|a| if a == "--all" { "--step=book" } else { a }),
    );
    assert!(nothing.contains("nothing to redrive"), "{nothing}");
    assert_eq!(desk.stuck().await, 2, "nothing of this changed anything");

    let done = desk.prints(&["redrive", "--saga", &saga.to_string(), "--yes"]);
    assert!(done.ends_with("1 reaction redriven: saga work shows what becomes of them\n"), "{done}");
    desk.settle().await;
    assert_eq!((desk.rows().await.len(), desk.emitted().len()), (1, 1), "the row behind it followed");
    let id = desk.rows().await[0].id.0.to_string();
    desk.prints(&["redrive", "--reaction", &id, "--yes"]);
    desk.settle().await;
    assert_eq!(
        (desk.prints(&["work"]).as_str(), desk.emitted()),
        ("nothing waits\n", vec![Booked::TYPE.to_owned(); 2])
    );
    let gone = desk.refuses(&["redrive", "--reaction", &id, "--yes"]);
    assert!(gone.contains("it was settled"), "{gone}");
}

#[tokio::test]
async fn a_row_that_waits_behind_another_is_not_redriven_by_itself() {
    let mut desk = Desk::new().await;
    let saga = mint();
    desk.send(saga, Asked::TYPE, "a").await;
    desk.send(saga, Greeted::TYPE, "g").await;
    let parked = desk.rows().await[1].id.0.to_string();
    let refused = desk.refuses(&["redrive", "--reaction", &parked, "--yes"]);
    assert!(refused.contains("waits behind another row"), "{refused}");
}

/// The first batch waits for the file, which the test holds; so Ctrl-C comes before the last.
#[cfg(unix)]
#[tokio::test]
async fn ctrl_c_stops_between_two_batches() {
    let mut desk = Desk::new().await;
    for n in 0..25 {
        desk.send(mint(), Asked::TYPE, &n.to_string()).await;
    }
    let held = desk.store.begin().await.unwrap();
    let mut command = desk.saga(&["redrive", "--all", "--batch", "10", "--yes"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let first = said.next().unwrap().unwrap();
    assert!(first.contains("Ctrl-C"), "{first}");
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    drop(held);

    let mut printed = String::new();
    child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{printed}");
    let left = desk.stuck().await;
    assert!([15, 25].contains(&left), "whole batches only: {left}");
    assert!(printed.contains(&format!("stopped: {} reactions redriven", 25 - left)), "{printed}");

    let output = desk.run(0, &["redrive", "--all", "--batch", "10", "--yes"]);
    let progress = String::from_utf8(output.stderr).unwrap();
    assert!(progress.contains(&format!("desk: 10 of {left} redriven\n")), "{progress}");
    assert_eq!(desk.stuck().await, 0);
}

#[tokio::test]
async fn what_cannot_be_helped_is_discarded_with_a_reason() {
    let mut desk = Desk::new().await;
    let saga = mint();
    desk.send(saga, Asked::TYPE, "a").await;
    desk.send(saga, Greeted::TYPE, "g").await;
    let id = desk.rows().await[0].id.0.to_string();
    desk.run(2, &["discard", "--reaction", &id]);
    let refused = desk.refuses(&["discard", "--reaction", &id, "--reason", " ", "--yes"]);
    assert!(refused.contains("a reason of 1 to 2000 bytes"), "{refused}");
    let dry = desk.prints(&["discard", "--reaction", &id, "--reason", "test message", "--dry-run"]);
    assert!(dry.contains("- what waited behind it goes on\nnothing was changed\n"), "{dry}");
    desk.refuses(&["discard", "--reaction", &id, "--reason", "test message"]);
    assert_eq!(desk.rows().await.len(), 2);

    let done = desk.prints(&["discard", "--reaction", &id, "--reason", "test message, ticket 12", "--yes"]);
    assert!(done.ends_with("discarded by ada: test message, ticket 12\n"), "{done}");
    desk.settle().await;
    assert_eq!(desk.prints(&["work"]), "nothing waits\n");
    let kept = desk.json(&["work", "--discarded", "--json"]);
    assert_eq!((&kept[0]["who"], &kept[0]["why"]), (&"ada".into(), &"test message, ticket 12".into()));
    assert_eq!(
        (&kept[0]["reaction"], &kept[0]["message"]["body"]),
        (&id.clone().into(), &"{\"n\":\"\\u001b[2J\"}".into())
    );
    let text = desk.prints(&["work", "--discarded"]);
    assert!(text.contains("test message, ticket 12") && text.contains(&id), "{text}");
    assert_eq!(desk.json(&["work", "--discarded", "--json", "--saga", &mint().to_string()]), serde_json::json!([]));
}

#[tokio::test]
async fn a_compensation_is_discarded_only_by_who_took_the_effect_back() {
    let mut desk = Desk::new().await;
    let saga = mint();
    desk.broken.store(false, Ordering::SeqCst);
    desk.send(saga, Asked::TYPE, "a").await;
    desk.broken.store(true, Ordering::SeqCst);
    desk.send(saga, Cancelled::TYPE, "c").await;
    let id = desk.rows().await[0].id.0.to_string();
    let refused = desk.refuses(&["discard", "--reaction", &id, "--reason", "r", "--yes"]);
    assert!(refused.contains("must be taken back") && refused.contains("--compensation"), "{refused}");
    let done = desk.prints(&["discard", "--reaction", &id, "--reason", "r", "--compensation", "--yes"]);
    assert!(done.contains("counts as compensated") && done.contains("must be done by hand"), "{done}");
    assert_eq!(desk.store.ledger(saga).await.unwrap()[0].state, saga_core::State::Compensated);
}

#[tokio::test]
async fn a_silent_saga_says_again_what_it_said() {
    let mut desk = Desk::new().await;
    desk.broken.store(false, Ordering::SeqCst);
    let saga = mint();
    desk.send(saga, Asked::TYPE, "a").await;
    desk.send(saga, Greeted::TYPE, "g").await;
    let saga = saga.to_string();
    let dry = desk.prints(&["redrive", "--saga", &saga, "--re-emit", "--dry-run"]);
    assert!(dry.contains("desk  book  shop.desk.booked.v1 on desk, id "), "{dry}");
    assert!(dry.contains("desk  greet  nothing: it recorded no event\n"), "{dry}");
    assert_eq!(desk.store.outbox_len().await.unwrap(), 0);
    let done = desk.prints(&["redrive", "--saga", &saga, "--re-emit", "--yes"]);
    assert!(done.contains("1 event written to the outbox"), "{done}");
    assert_eq!(desk.store.outbox_len().await.unwrap(), 1);
    let unknown = desk.refuses(&["redrive", "--saga", &mint().to_string(), "--re-emit", "--yes"]);
    assert!(unknown.contains("has emitted nothing"), "{unknown}");
    desk.run(2, &["redrive", "--all", "--re-emit"]);
}

#[tokio::test]
async fn what_the_broker_refuses_is_listed_and_redriven() {
    let mut desk = Desk::new().await;
    assert_eq!(desk.prints(&["outbox", "--exit-code"]), "no event is refused\n");
    assert_eq!(desk.prints(&["outbox", "--json"]), "[]\n");
    let (saga, other) = (mint(), mint());
    for saga in [saga, other] {
        desk.send(saga, Called::TYPE, "c").await;
    }
    desk.broken.store(false, Ordering::SeqCst);
    desk.send(saga, Asked::TYPE, "a").await;
    desk.prints(&["redrive", "--saga", &saga.to_string(), "--re-emit", "--yes"]);

    let text = desk.prints(&["outbox"]);
    let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["PARTICIPANT", "STATE", "EVENT", "SAGA", "WHY"]);
    assert_eq!(words[1], ["topic", "bytes", "age", "event", "id"]);
    let saga_text = saga.to_string();
    let first = ["desk", "refused", "HallEchoed", &saga_text, "the", "topic", "hall", "does", "not", "exist"];
    assert_eq!(words[2], first);
    assert_eq!(words[3][..2], ["hall", "2"]);
    assert_eq!(words.len(), 6, "{text}");

    let listed = desk.json(&["outbox", "--json"]);
    assert_eq!(listed[0]["participant"], "desk");
    assert_eq!((&listed[0]["saga"], &listed[0]["topic"]), (&saga_text.as_str().into(), &"hall".into()));
    assert_eq!((&listed[0]["event_type"], &listed[0]["state"]), (&Echoed::TYPE.into(), &"refused".into()));
    assert_eq!(listed[0]["reason"], "the topic hall does not exist");
    assert!(listed[0]["age_seconds"].is_i64() && listed[0]["event"].is_string(), "{listed}");

    let count = |arguments: &[&str]| desk.json(&[&["outbox", "--json"], arguments].concat()).as_array().unwrap().len();
    assert_eq!((count(&[]), count(&["--limit", "1"])), (2, 1));
    assert_eq!((count(&["--saga", &saga_text]), count(&["--saga", &mint().to_string()])), (1, 0));
    assert_eq!((count(&["--error", "HALL"]), count(&["--error", "large"]), count(&["--older-than", "10m"])), (2, 0, 0));
    assert_eq!(count(&["--all"]), 4, "what was written for {saga} once more waits");
    let waiting = desk.prints(&["outbox", "--all", "--saga", &saga_text]);
    assert!(waiting.contains("waiting") && waiting.contains("tried by itself"), "{waiting}");
    assert!(desk.prints(&["outbox", "--limit", "1"]).ends_with("1 row, and there are more: --limit N shows them\n"));
    assert_eq!(desk.prints(&["outbox", "--error", "large"]), "no event is refused that passes these filters\n");
    desk.run(3, &["outbox", "--exit-code"]);
    desk.run(0, &["outbox", "--exit-code", "--error", "large"]);

    // Nothing is done before the topic is there, and nothing that was not agreed to.
    desk.run(2, &["redrive", "--outbox"]);
    desk.run(2, &["redrive", "--outbox", "--step", "echo"]);
    let dry = desk.prints(&["redrive", "--outbox", "--all", "--dry-run"]);
    assert_eq!(
        dry,
        "     2  desk  shop.hall.echoed.v1  on hall  refused: the topic hall does not exist\n\
         2 events would be published; nothing was changed\n"
    );
    assert!(desk.refuses(&["redrive", "--outbox", "--all"]).contains("--yes"));
    let nothing = desk.prints(&["redrive", "--outbox", "--error", "large", "--yes"]);
    assert_eq!(nothing, "nothing to redrive: no event that passes is refused\n");
    assert_eq!((desk.json(&["outbox", "--json"]).as_array().unwrap().len(), desk.stuck().await), (2, 0));

    // It is refused again as long as the fault is there, and only what was chosen is tried.
    let done = desk.prints(&["redrive", "--outbox", "--saga", &saga_text, "--yes"]);
    assert!(done.contains("1 event redriven: the running participants publish them within seconds"), "{done}");
    assert_eq!(desk.json(&["outbox", "--json"])[0]["saga"], other.to_string());
    assert_eq!(desk.sweep().await, 3);
    assert_eq!(desk.json(&["outbox", "--json"]).as_array().unwrap().len(), 3, "what was said again is refused, too");
    desk.broker.create_topic("hall", 1);
    assert!(desk.prints(&["redrive", "--outbox", "--all", "--batch", "1", "--yes"]).contains("3 events redriven"));
    assert_eq!(desk.sweep().await, 3);
    assert_eq!((desk.store.outbox_len().await.unwrap(), desk.broker.messages("hall").len()), (0, 3));
}

#[tokio::test]
async fn several_participants_are_named_and_mistakes_are_explained() {
    let mut desk = Desk::new().await;
    desk.send(mint(), Asked::TYPE, "a").await;
    let other: PathBuf = desk.dir.path().join("other.db");
    let store = Store::connect(&format!("sqlite:{}", other.display()), "other").await.unwrap();
    let both = format!("{} other=sqlite:other.db", desk.database());
    let run = |database: &str, arguments: &[&str]| {
        let output = desk.saga(arguments).env("SAGA_DATABASE", database).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, _, error) = run(&both, &["work"]);
    assert!(code == Some(1) && error.contains("other") && error.contains("run `migrate`"), "{error}");
    store.migrate().await.unwrap();
    assert_eq!(run(&both, &["work", "--exit-code"]).0, Some(3));
    assert_eq!(run(&both, &["work", "--exit-code", "--participant", "other"]).0, Some(0));
    assert_eq!(run("sqlite:other.db", &["work", "--participant", "other"]).1, "nothing waits\n");
    // An option wins over the environment.
    assert_eq!(run(&both, &["work", "--database", "other=sqlite:other.db"]).1, "nothing waits\n");

    let (_, _, error) = run("desk=sqlite:desc.db", &["work"]);
    assert!(error.contains("there is no file \"desc.db\""), "{error}");
    assert!(!desk.dir.path().join("desc.db").exists(), "a mistyped path makes no file");
    let (_, _, error) = run("desk=postgres://u:hunter2@127.0.0.1:1/none", &["work"]);
    assert!(error.contains("the database of desk cannot be opened") && !error.contains("hunter2"), "{error}");
    let (_, _, error) = run("", &["work"]);
    assert!(error.contains("SAGA_DATABASE"), "{error}");
}

/// The other engine: a listing, a redrive, a discard and a re-emission, on tables of their own.
#[tokio::test]
async fn the_same_on_postgresql() {
    let Ok(url) = std::env::var("SAGA_TEST_POSTGRES") else {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "SAGA_TEST_POSTGRES is required here");
        eprintln!("SKIPPED: set SAGA_TEST_POSTGRES=postgres://USER@HOST/NAME to test on PostgreSQL");
        return;
    };
    let name: &'static str = format!("t-{:016x}", Clock::system().random()).leak();
    let mut desk = Desk::on(tempfile::tempdir().unwrap(), url, name).await;
    let (saga, other) = (mint(), mint());
    for saga in [saga, other] {
        desk.send(saga, Asked::TYPE, "a").await;
        desk.send(saga, Greeted::TYPE, "g").await;
    }
    assert_eq!(desk.json(&["work", "--json", "--step", "book", "--state", "stuck"]).as_array().unwrap().len(), 2);
    assert_eq!(desk.json(&["work", "--json", "--saga", &saga.to_string()])[1]["behind"]["step"], "book");
    desk.broken.store(false, Ordering::SeqCst);
    desk.prints(&["redrive", "--saga", &saga.to_string(), "--yes"]);
    desk.settle().await;
    let id = desk.rows().await[0].id.0.to_string();
    desk.prints(&["discard", "--reaction", &id, "--reason", "test message", "--yes"]);
    desk.settle().await;
    assert_eq!((desk.prints(&["work"]).as_str(), desk.emitted()), ("nothing waits\n", vec![Booked::TYPE.to_owned()]));
    assert_eq!(desk.json(&["work", "--discarded", "--json"])[0]["reaction"], id);
    desk.prints(&["redrive", "--saga", &saga.to_string(), "--re-emit", "--yes"]);
    assert_eq!(desk.store.outbox_len().await.unwrap(), 1);
    desk.send(other, Called::TYPE, "c").await;
    assert_eq!(desk.json(&["outbox", "--json"])[0]["saga"], other.to_string());
    assert_eq!(desk.json(&["outbox", "--json", "--all"]).as_array().unwrap().len(), 2);
    desk.prints(&["redrive", "--outbox", "--saga", &other.to_string(), "--yes"]);
    assert_eq!(desk.prints(&["outbox"]), "no event is refused\n");

    let prefix = name.replace('-', "_");
    for table in ["ledger", "outbox", "work", "started", "discarded", "meta"] {
        let sql: &'static str = format!("DROP TABLE {prefix}_{table}").leak();
        let mut tx = desk.store.begin().await.unwrap();
        tx.conn().execute(sql, ()).await.unwrap();
        tx.commit().await.unwrap();
    }
}

#[test]
fn help_says_when_to_use_it_and_what_it_will_not_do() {
    for (command, said) in [
        ("work", "changes nothing"),
        ("outbox", "changes nothing"),
        ("redrive", "will not touch"),
        ("discard", "will not decide"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_saga")).args([command, "--help"]).output().unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        let flat = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains(said) && flat.contains("Examples: saga"), "{help}");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_saga")).arg("--version").output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("saga {}\n", env!("CARGO_PKG_VERSION")));
}
