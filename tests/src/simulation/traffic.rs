//! What happens by itself at its time: messages, requests, answers, rebalances, restarts.

use anyhow::Result;
use saga_core::{envelope::Message, harness::Rule};
use tokio::sync::oneshot;

use super::{
    BEGIN,
    chance::Fault,
    ether::{CALL_TIMEOUT, Request},
    world::World,
};

/// What happens at a time.
pub(super) enum Timed {
    Place(usize),
    Cancel(usize),
    Readable(Box<Message>),
    Arrives(Box<Request>, bool),
    Answers(oneshot::Sender<Result<Vec<u8>, String>>, u64, Result<Vec<u8>, String>),
    Start(usize),
    Expel(usize),
    Rebalance(u32),
    Sweep(usize),
    Heal,
}

impl World<'_> {
    pub(super) async fn happen(&mut self) -> Result<()> {
        while let Some(entry) = self.timed.first_entry().filter(|entry| entry.key().0 <= self.ether.now()) {
            match entry.remove() {
                Timed::Place(order) => self.place(order).await?,
                Timed::Cancel(order) => self.cancel(order).await?,
                Timed::Readable(message) => {
                    self.ether.log(format_args!("a late message of {} can be read", message.key));
                    self.ether.store(&message);
                    self.expect();
                }
                Timed::Arrives(request, listens) => self.arrive(*request, listens).await?,
                Timed::Answers(answer, task, what) => {
                    // Nobody may listen any more.
                    let _ = answer.send(what);
                    let tasks = self.instances.iter_mut().filter_map(|instance| instance.alive.as_mut());
                    tasks
                        .flat_map(|alive| &mut alive.tasks)
                        .filter(|other| other.id == task)
                        .for_each(|task| task.ready = true);
                }
                Timed::Start(i) => self.start(i).await?,
                Timed::Expel(i) => {
                    let asleep = self.instances[i].control.asleep_until().is_some();
                    if asleep && let Some(alive) = &self.instances[i].alive {
                        let membership = alive.membership.lock().map(|mut membership| membership.take());
                        self.ether.log(format_args!("{} is no member any more", self.instances[i].control.name));
                        drop(membership);
                        self.expect();
                    }
                }
                Timed::Rebalance(nth) => self.rebalance(nth),
                Timed::Sweep(i) => {
                    let participant = self.instances[i].participant;
                    let alive = self.instances.iter_mut().filter(|other| other.participant == participant);
                    let alive: Vec<_> = alive.filter_map(|instance| instance.alive.as_mut()).collect();
                    if alive.is_empty() {
                        self.sweep_later(i);
                    }
                    self.instances
                        .iter_mut()
                        .filter(|other| other.participant == participant)
                        .filter_map(|instance| instance.alive.as_mut())
                        .for_each(|alive| alive.sweeps = true);
                }
                Timed::Heal => {
                    self.ether.log(format_args!("from now on nothing goes wrong"));
                    self.ether.state().chance.heal();
                }
            }
        }
        Ok(())
    }

    fn rebalance(&mut self, nth: u32) {
        let mut moved = false;
        for i in 0..self.instances.len() {
            let name = self.instances[i].control.name.clone();
            if self.ether.strikes(Fault::Rebalance, format_args!("{name} ({nth})")).is_some()
                && let Some(alive) = &self.instances[i].alive
            {
                drop(alive.membership.lock().map(|mut membership| membership.take()));
                moved = true;
            }
        }
        if moved {
            self.expect();
        }
        if !self.ether.state().chance.healed() {
            let wait = 1_000 + self.random.below(5_000) as i64;
            self.after(wait, Timed::Rebalance(nth + 1));
        }
    }

    async fn arrive(&mut self, request: Request, listens: bool) -> Result<()> {
        let Request { path, key, body, task, name, answer } = request;
        let said = if path == "voids" && self.play.rules.contains(&Rule::LookUpInDoubt) {
            self.look_up(&body).await?
        } else {
            self.gateway.serve(path, key, &body).await
        };
        let text = match &said {
            Ok(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Err(why) => why.clone(),
        };
        self.ether.log(format_args!("gateway {name}: {text}"));
        if !listens {
            return Ok(());
        }
        let latency = 3 + self.random.below(40) as i64;
        if self.ether.strikes(Fault::AnswerLost, format_args!("{name}")).is_some() {
            self.after(
                CALL_TIMEOUT,
                Timed::Answers(answer, task, Err("no answer within the caller's patience".to_owned())),
            );
        } else {
            self.after(latency, Timed::Answers(answer, task, said));
        }
        Ok(())
    }

    /// [`Rule::LookUpInDoubt`]: takes back what took effect, and leaves the key open for what still travels.
    async fn look_up(&self, body: &[u8]) -> Result<Result<Vec<u8>, String>> {
        let void: serde_json::Value = serde_json::from_slice(body)?;
        let key = void["key"].as_str().unwrap_or_default();
        let refund = serde_json::to_vec(&serde_json::json!({ "receipt": format!("charge-{key}") }))?;
        let refunded = self.gateway.serve("refunds", Some(format!("look-up-{key}")), &refund).await;
        Ok(refunded.or_else(|_| Ok(br#"{"receipt":null}"#.to_vec())))
    }

    /// Requests and messages that were handed over in the last step.
    pub(super) fn under_way(&mut self) {
        let (requests, late) = {
            let mut state = self.ether.state();
            (std::mem::take(&mut state.requests), std::mem::take(&mut state.late))
        };
        for (at, message) in late {
            self.at(at - BEGIN, Timed::Readable(Box::new(message)));
        }
        for request in requests {
            let what = request.name.clone();
            let latency = 3 + self.random.below(40) as i64;
            let strikes = |fault| self.ether.strikes(fault, format_args!("{what}"));
            let timed_out = || Err("no answer within the caller's patience".to_owned());
            if strikes(Fault::RequestLost).is_some() {
                self.after(CALL_TIMEOUT, Timed::Answers(request.answer, request.task, timed_out()));
            } else if let Some(force) = strikes(Fault::RequestSlow) {
                let travels = CALL_TIMEOUT + 500 + (force % 120_000).cast_signed();
                let Request { path, key, body, task, name, answer } = request;
                let (gone, _) = oneshot::channel();
                self.after(CALL_TIMEOUT, Timed::Answers(answer, task, timed_out()));
                self.after(
                    travels,
                    Timed::Arrives(Box::new(Request { path, key, body, task, name, answer: gone }), false),
                );
            } else if strikes(Fault::RequestFails).is_some() {
                let failed = Err("the gateway failed before the request took effect".to_owned());
                self.after(latency, Timed::Answers(request.answer, request.task, failed));
            } else {
                self.after(latency, Timed::Arrives(Box::new(request), true));
            }
        }
    }
}
