//! Mermaid sequence diagrams: one path of a saga, played by the rules of the steps, every event delivered once and in order.
//!
//! The invariant: a diagram is one run that can happen, and always the same one. All the other runs are for exploration.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
};

use saga_core::{event::Ending, participant::StepKind};

use super::text::{self, Ids, mermaid};
use crate::{
    Choreography, Flow,
    flow::{EventId, FlowStep, StepId},
};

/// The most runs that are tried for one diagram. Steps that emit one of several events make several runs; more of them than this
/// are no picture for people.
const MOST_RUNS: usize = 4_096;

/// Which way a saga goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Path {
    /// Nobody says no.
    Happy,
    /// A step says no by this event, named by its type or as pictures name it.
    Rejection(String),
    /// This request, `participant/step`, comes right after the start.
    Request(String),
}

/// A path that the choreography does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// Nothing starts sagas.
    #[error("no step starts sagas, so there is no path to draw")]
    NoStart,
    /// No step says no by that event.
    #[error("no step says no by {asked}; those that do say {valid}")]
    NoSuchRejection {
        /// The event that was asked for.
        asked: String,
        /// What can be asked for.
        valid: String,
    },
    /// No such request.
    #[error("there is no request {0}")]
    NoSuchRequest(String),
    /// It exists, but no run comes there.
    #[error("no run was found in which {0} happens")]
    NotReached(Path),
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Happy => f.write_str("Nobody says no"),
            Self::Rejection(event) | Self::Request(event) => f.write_str(event),
        }
    }
}

impl Choreography {
    /// Every path that has a diagram: the happy one, then one for each event that says no, then one for each request.
    pub fn paths(&self) -> Vec<Path> {
        let flow = self.flow();
        let rejections = rejections(&flow).into_iter().map(|event| Path::Rejection(flow.event(event).label()));
        let requests = flow.steps.iter().filter(|step| step.declared.kind == StepKind::Request);
        let requests = requests.map(|step| Path::Request(step.label()));
        [Path::Happy].into_iter().chain(rejections).chain(requests).collect()
    }

    /// Markdown with a Mermaid sequence diagram of every path that a run was found for.
    pub fn to_sequences(&self) -> Result<String, PathError> {
        let mut sections = Vec::new();
        for path in self.paths() {
            match self.to_sequence(&path) {
                Ok(diagram) => sections.push(section(&path, &diagram)),
                Err(PathError::NotReached(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sections.join("\n"))
    }

    /// A Mermaid sequence diagram of one run: the first, by the order of the manifests, that goes this way and comes to an ending.
    pub fn to_sequence(&self, path: &Path) -> Result<String, PathError> {
        let flow = self.flow();
        let wanted = match path {
            Path::Happy => Wanted::Happy,
            Path::Rejection(asked) => {
                let all = rejections(&flow);
                let named =
                    |event: &&EventId| flow.event(**event).name == asked || flow.event(**event).label() == *asked;
                Wanted::No(*all.iter().find(named).ok_or_else(|| {
                    let labels: Vec<String> = all.iter().map(|event| flow.event(*event).label()).collect();
                    let valid = if labels.is_empty() { "nothing".to_owned() } else { labels.join(", ") };
                    PathError::NoSuchRejection { asked: asked.clone(), valid }
                })?)
            }
            Path::Request(asked) => {
                let request =
                    |id: &StepId| flow.step(*id).declared.kind == StepKind::Request && flow.step(*id).label() == *asked;
                Wanted::Request(flow.step_ids().find(request).ok_or_else(|| PathError::NoSuchRequest(asked.clone()))?)
            }
        };
        let starts: Vec<StepId> =
            flow.step_ids().filter(|id| flow.step(*id).declared.kind == StepKind::Start).collect();
        if starts.is_empty() {
            return Err(PathError::NoStart);
        }
        let mut best: Option<Run<'_, '_>> = None;
        let mut runs = 0;
        for start in starts {
            let mut choices = Vec::new();
            loop {
                let run = Run::play(&flow, wanted, start, choices);
                runs += 1;
                choices = run.choices.clone();
                if best.as_ref().is_none_or(|best| run.worth() > best.worth()) {
                    best = Some(run);
                }
                // The next one: the last choice that has an alternative left takes it.
                while choices.last().is_some_and(|(taken, of)| taken + 1 == *of) {
                    choices.pop();
                }
                let Some((taken, _)) = choices.last_mut() else { break };
                *taken += 1;
                if best.as_ref().is_some_and(|best| best.worth() == BEST) || runs >= MOST_RUNS {
                    break;
                }
            }
        }
        let best = best.filter(|run| run.worth() > 0).ok_or_else(|| PathError::NotReached(path.clone()))?;
        Ok(best.drawn())
    }
}

/// A path and its diagram, as Markdown.
fn section(path: &Path, diagram: &str) -> String {
    let title = match path {
        Path::Happy => "Nobody says no".to_owned(),
        Path::Rejection(event) => format!("`{}` is said", text::line(event).replace('`', "'")),
        Path::Request(step) => format!("`{}` comes right after the start", text::line(step).replace('`', "'")),
    };
    format!("{title}:\n\n```mermaid\n{diagram}```\n")
}

/// Every event by which a step says no, in the order of the steps.
fn rejections(flow: &Flow<'_>) -> Vec<EventId> {
    let mut seen = BTreeSet::new();
    flow.steps.iter().flat_map(|step| step.rejects.iter().copied()).filter(|event| seen.insert(*event)).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Happy,
    No(EventId),
    Request(StepId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    None,
    Done,
    Rejected,
    /// Compensated, or void.
    Gone,
}

/// Goes the way that was wanted, and comes to the ending that belongs to it, once.
const BEST: u8 = 3;

/// What is drawn, in order.
#[derive(Debug)]
enum Line {
    Note { over: String, text: String },
    Arrow { from: String, to: String, event: EventId, dashed: bool },
}

/// One run.
#[derive(Debug)]
struct Run<'f, 'm> {
    flow: &'f Flow<'m>,
    wanted: Wanted,
    states: Vec<State>,
    queue: VecDeque<(EventId, StepId)>,
    /// Where a step could do several things: which was taken, of how many.
    choices: Vec<(usize, usize)>,
    at: usize,
    said_no: bool,
    endings: Vec<Ending>,
    lines: Vec<Line>,
}

impl<'f, 'm> Run<'f, 'm> {
    fn play(flow: &'f Flow<'m>, wanted: Wanted, start: StepId, choices: Vec<(usize, usize)>) -> Self {
        let states = vec![State::None; flow.steps.len()];
        let (queue, endings, lines) = (VecDeque::new(), Vec::new(), Vec::new());
        let mut run = Self { flow, wanted, states, queue, choices, at: 0, said_no: false, endings, lines };
        run.forward(start);
        if let Wanted::Request(request) = wanted
            && flow.step(request).participant == flow.step(start).participant
        {
            run.forward(request);
        }
        while let Some((event, by)) = run.queue.pop_front() {
            run.deliver(event, by);
        }
        run
    }

    /// More is better; 0 is another way than the one that was wanted.
    fn worth(&self) -> u8 {
        let ending = match (self.wanted, self.endings.as_slice()) {
            (Wanted::Happy, [Ending::Completed]) | (Wanted::No(_), [Ending::Cancelled]) => 2,
            (Wanted::Request(_), [_]) => 2,
            (_, [_, ..]) => 1,
            (_, []) => 0,
        };
        let there = match self.wanted {
            Wanted::Happy => true,
            Wanted::No(_) => self.said_no,
            Wanted::Request(request) => self.states[request.0] != State::None,
        };
        if there { 1 + ending } else { 0 }
    }

    /// Which of `of` things happens.
    fn choose(&mut self, of: usize) -> usize {
        if of < 2 {
            return 0;
        }
        if self.at == self.choices.len() {
            self.choices.push((0, of));
        }
        self.at += 1;
        self.choices[self.at - 1].0
    }

    fn step(&self, id: StepId) -> &'f FlowStep<'m> {
        self.flow.step(id)
    }

    fn note(&mut self, step: StepId, text: String) {
        self.lines.push(Line::Note { over: self.step(step).participant.to_owned(), text });
    }

    fn publish(&mut self, step: StepId, event: Option<EventId>) {
        let Some(event) = event else { return };
        self.queue.push_back((event, step));
        if let Some(ending) = self.flow.event(event).ending() {
            self.endings.push(ending);
            self.note(step, format!("{}, and the saga is {ending}", self.flow.event(event).label()));
        }
    }

    fn forward(&mut self, id: StepId) {
        let step = self.step(id);
        let no = match self.wanted {
            Wanted::No(event) if !self.said_no && step.rejects.contains(&event) => Some(event),
            _ => None,
        };
        let done = step.emits.len().max(1);
        let chosen = self.choose(done + usize::from(no.is_some()));
        let (name, again) = (step.declared.step.clone(), usize::from(no.is_some()));
        match no.filter(|_| chosen == 0) {
            Some(event) => {
                self.states[id.0] = State::Rejected;
                self.said_no = true;
                self.note(id, format!("{name} says no"));
                self.publish(id, Some(event));
            }
            None => {
                self.states[id.0] = State::Done;
                self.note(id, name);
                if step.joins.iter().all(|other| self.states[other.0] == State::Done) {
                    self.publish(id, step.emits.get(chosen - again).copied());
                }
            }
        }
    }

    fn compensate(&mut self, id: StepId) {
        let step = self.step(id);
        let text = match self.states[id.0] {
            State::Done => format!("compensate {}", step.declared.step),
            _ => format!("{} will not run", step.declared.step),
        };
        self.states[id.0] = State::Gone;
        self.note(id, text);
        let chosen = self.choose(step.compensated.len());
        self.publish(id, step.compensated.get(chosen).copied());
    }

    /// To everybody who hears it. Where it changes nothing it is not drawn, except that it comes too late.
    fn deliver(&mut self, event: EventId, by: StepId) {
        let from = self.step(by).participant;
        let mut arrived = BTreeSet::new();
        let hears: Vec<(StepId, bool)> = self
            .flow
            .step_ids()
            .flat_map(|id| {
                let event = self.flow.event(event);
                [(id, false, event.triggers.contains(&id)), (id, true, event.compensates.contains(&id))]
            })
            .filter_map(|(id, back, hears)| hears.then_some((id, back)))
            .collect();
        for (id, back) in hears {
            let (step, state) = (self.step(id), self.states[id.0]);
            let late = match (back, state) {
                (false, State::None) => false,
                (false, State::Gone) => true,
                // A gate that is done stays done: whoever cancels is too late.
                (true, State::Done) => step.declared.kind == StepKind::Gate,
                (true, State::None | State::Rejected) => false,
                (false, State::Done | State::Rejected) | (true, State::Gone) => continue,
            };
            if arrived.insert(step.participant) {
                let (from, to) = (from.to_owned(), step.participant.to_owned());
                self.lines.push(Line::Arrow { from, to, event, dashed: back });
            }
            match (late, back) {
                (true, _) => self.note(id, format!("too late for {}", step.declared.step)),
                (false, true) => self.compensate(id),
                (false, false) => self.forward(id),
            }
        }
    }

    fn drawn(&self) -> String {
        let mut out = String::from("sequenceDiagram\n");
        let mut ids = Ids::default();
        let mut named = BTreeMap::<&str, String>::new();
        let taking_part: BTreeSet<&str> = self
            .lines
            .iter()
            .flat_map(|line| match line {
                Line::Note { over, .. } => [over.as_str(), over.as_str()],
                Line::Arrow { from, to, .. } => [from.as_str(), to.as_str()],
            })
            .collect();
        for manifest in self.flow.manifests {
            let name = manifest.participant.as_str();
            if !taking_part.contains(name) || named.contains_key(name) {
                continue;
            }
            let id = ids.unique(name);
            let title = if id == name { String::new() } else { format!(" as {}", mermaid(name)) };
            out += &format!("  participant {id}{title}\n");
            named.insert(name, id);
        }
        for line in &self.lines {
            out += &match line {
                Line::Note { over, text } => format!("  Note over {}: {}\n", named[over.as_str()], mermaid(text)),
                Line::Arrow { from, to, event, dashed } => {
                    let (from, to) = (&named[from.as_str()], &named[to.as_str()]);
                    let arrow = if *dashed { "--)" } else { "-)" };
                    format!("  {from}{arrow}{to}: {}\n", mermaid(&text::line(&self.flow.event(*event).label())))
                }
            };
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::draw::examples::{assert_escaped, small};

    #[test]
    fn a_diagram_of_every_path() {
        expect![[r#"
            Nobody says no:

            ```mermaid
            sequenceDiagram
              participant desk
              participant bank
              Note over desk: book
              desk-)bank: RoomBooked
              Note over bank: pay
              bank-)desk: RoomPaid
              Note over desk: keep
              Note over desk: RoomKept, and the saga is completed
            ```

            `RoomRefused` is said:

            ```mermaid
            sequenceDiagram
              participant desk
              participant bank
              Note over desk: book
              desk-)bank: RoomBooked
              Note over bank: pay says no
              bank--)desk: RoomRefused
              Note over desk: compensate book
              Note over desk: RoomFreed, and the saga is cancelled
            ```
        "#]]
        .assert_eq(&small().to_sequences().unwrap());
    }

    #[test]
    fn what_is_no_path_is_said() {
        let mut choreography = small();
        let asked = |choreography: &Choreography, path: Path| choreography.to_sequence(&path).unwrap_err().to_string();
        let error = asked(&choreography, Path::Rejection("RoomFreed".to_owned()));
        assert_eq!(error, "no step says no by RoomFreed; those that do say RoomRefused");
        assert!(choreography.to_sequence(&Path::Rejection("shop.room.refused.v1".to_owned())).is_ok());
        choreography.manifests[1].steps[0].on.clear();
        let error = asked(&choreography, Path::Rejection("RoomRefused".to_owned()));
        assert_eq!(error, "no run was found in which RoomRefused happens");
        choreography.manifests[0].steps.clear();
        assert_eq!(asked(&choreography, Path::Happy), PathError::NoStart.to_string());
    }

    /// The first outcome of `book` leads nowhere, so the other one is taken.
    #[test]
    fn of_several_outcomes_one_is_taken_that_comes_to_an_ending() {
        let mut choreography = small();
        choreography.manifests[0].steps[0].emits.insert(0, "shop.room.lost.v1".to_owned());
        let drawn = choreography.to_sequence(&Path::Happy).unwrap();
        assert!(drawn.contains("RoomKept") && !drawn.contains("RoomLost"), "{drawn}");
    }

    #[test]
    fn names_break_nothing() {
        for path in [Path::Happy, Path::Rejection(String::new())] {
            let draw = |choreography: &Choreography| {
                let said = choreography.paths().remove(usize::from(path != Path::Happy));
                choreography.to_sequence(&said).unwrap()
            };
            assert_escaped(draw, &['<', '>', '{', '%', '"', '`', ':']);
        }
        let markdown = |choreography: &Choreography| choreography.to_sequences().unwrap();
        assert_escaped(markdown, &['`']);
    }
}
