//! What an instance does when it is its turn, and what comes of where it stops.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use saga_core::{
    Error,
    node::{Outgoing, Settling},
};

use super::{
    BEGIN,
    chance::seconds,
    instance::{Done, Stopped, Task, Work},
    traffic::Timed,
    world::World,
};

/// What can be done next.
#[derive(Clone, Copy)]
pub(super) enum Choice {
    GoOn(usize, usize),
    Settle(usize),
    Publish(usize),
    Sweep(usize),
}

impl World<'_> {
    pub(super) async fn act(&mut self, choice: Choice) -> Result<()> {
        self.counter += 1;
        let id = self.counter;
        let messages = [1, 2, 5, 500][self.random.below(4)];
        let (i, work) = match choice {
            Choice::GoOn(i, t) => {
                let alive = self.instances[i].alive.as_mut().context("a task of a dead instance")?;
                let task = alive.tasks.remove(t);
                return self.go_on(i, task).await;
            }
            Choice::Settle(i) => {
                let alive = self.instances[i].alive.as_mut().context("a dead instance")?;
                let answers = std::mem::take(&mut alive.answers);
                let mut part = alive.settling.take().context("a batch is being settled")?;
                let work = async move {
                    let (calls, result) = part.turn(answers, messages).await;
                    (part, calls, result)
                };
                (i, Work::Settle(Box::pin(work)))
            }
            Choice::Publish(i) => {
                let alive = self.instances[i].alive.as_mut().context("a dead instance")?;
                let mut part = alive.publishing.take().context("it is publishing")?;
                let work = async move {
                    let busy = part.turn().await;
                    (part, busy)
                };
                (i, Work::Publish(Box::pin(work)))
            }
            Choice::Sweep(i) => {
                let alive = self.instances[i].alive.as_mut().context("a dead instance")?;
                alive.sweeps = false;
                let part = Arc::clone(&alive.sweeping);
                (i, Work::Sweep(Box::pin(async move { part.turn().await })))
            }
        };
        self.go_on(i, Task { id, ready: true, work }).await
    }

    pub(super) async fn go_on(&mut self, i: usize, mut task: Task) -> Result<()> {
        let control = Arc::clone(&self.instances[i].control);
        let stopped = task.go_on(&control).await;
        self.under_way();
        let participant = self.instances[i].participant;
        match stopped {
            Stopped::Crashed => {
                drop(task);
                self.instances[i].alive = None;
                let wait = 50 + self.random.below(15_000) as i64;
                self.after(wait, Timed::Start(i));
                self.look_at_work(participant).await?;
            }
            Stopped::Asleep | Stopped::Waits => {
                let settles = matches!(task.work, Work::Settle(_));
                task.ready = matches!(stopped, Stopped::Asleep);
                if settles {
                    // What it has committed is told when it goes on, and others may have come in between.
                    self.look_at_work(participant).await?;
                    control.slept();
                }
                if let Some(wakes) = control.asleep_until().filter(|wakes| wakes - BEGIN > self.ether.now() + 10_000) {
                    self.ether.log(format_args!(
                        "{} sleeps while it {} until {}",
                        control.name,
                        task.work.name(),
                        seconds(wakes - BEGIN)
                    ));
                    self.after(10_000, Timed::Expel(i));
                }
                if let Some(alive) = &mut self.instances[i].alive {
                    alive.tasks.push(task);
                }
            }
            Stopped::Done(done) => self.done(i, *done).await?,
        }
        Ok(())
    }

    async fn done(&mut self, i: usize, done: Done) -> Result<()> {
        match done {
            Done::Settled(part, calls, result) => self.settled(i, part, calls, result).await?,
            Done::Published(part, busy) => {
                if let Some(alive) = &mut self.instances[i].alive {
                    alive.publishing = Some(part);
                    alive.owes = busy;
                }
                if busy {
                    self.expect();
                }
            }
            Done::Swept(result) => {
                let participant = self.instances[i].participant;
                if result.is_ok_and(|rows| rows > 0) {
                    if let Some(alive) = &mut self.instances[i].alive {
                        alive.owes = true;
                    }
                    self.expect();
                }
                if self.stores[participant].outbox_len().await? > 0 {
                    self.sweep_later(i);
                }
            }
            Done::Answered(answer) => {
                if let Some(alive) = &mut self.instances[i].alive {
                    alive.answers.push(answer);
                }
            }
            Done::Replied(order, reply) => {
                if let Some(alive) = &mut self.instances[i].alive {
                    alive.owes = true;
                }
                self.sweep_later(i);
                self.replied(order, reply);
            }
        }
        Ok(())
    }

    async fn settled(
        &mut self,
        i: usize,
        part: Settling,
        calls: Vec<Outgoing>,
        result: Result<bool, Error>,
    ) -> Result<()> {
        let participant = self.instances[i].participant;
        let name = self.instances[i].control.name.clone();
        let begin = self.counter;
        self.counter += calls.len() as u64;
        let Some(alive) = &mut self.instances[i].alive else { return Ok(()) };
        alive.settling = Some(part);
        alive.owes = true;
        alive.expects = !matches!(result, Ok(false));
        for (call, id) in calls.into_iter().zip(begin + 1..) {
            alive.tasks.push(Task { id, ready: true, work: Work::Call(Box::pin(call.make())) });
        }
        match result {
            Ok(false) => return Ok(()),
            Ok(true) => {}
            // Whether it was committed, nobody knows: the batch is settled again.
            Err(Error::Database { doing: "committing", .. }) => {}
            Err(error @ Error::Transition { .. }) => {
                self.ether.violated("expected states", None, format!("{name}: {error}"));
            }
            Err(error) => {
                let error = format!("{:#}", anyhow::Error::from(error));
                self.ether.violated("a node stops", None, format!("{name}: {error}"));
            }
        }
        self.sweep_later(i);
        let (reacted, slept) = self.instances[i].control.reacted();
        if !slept {
            self.overtaken(participant, &reacted);
        }
        self.look_at_work(participant).await
    }

    pub(super) fn sweep_later(&mut self, i: usize) {
        let participant = self.instances[i].participant;
        let queued =
            |what: &Timed| matches!(what, Timed::Sweep(other) if self.instances[*other].participant == participant);
        if !self.timed.values().any(queued) {
            let wait = 5_100 + self.random.below(4_000) as i64;
            self.after(wait, Timed::Sweep(i));
        }
    }
}
