//! One process of a service or of the gateway: it can be killed, frozen, stopped and started again, and keeps its address.

use std::{
    fs::File,
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::support::{Guarded, Stop};

const READY_BOUND: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(50);
/// The longest stop that is waited for; a clean one takes at most five seconds.
const STOP_BOUND: Duration = Duration::from_secs(20);
/// As many lines of a log are told when a process ended by itself.
const LAST_LINES: usize = 3;

/// Where it is, and how to start it.
#[derive(Debug)]
pub struct Instance {
    name: String,
    program: PathBuf,
    directory: PathBuf,
    environment: Vec<(String, String)>,
    port: u16,
    running: Option<Guarded>,
}

impl Instance {
    /// An instance that does not run yet.
    pub fn new(name: &str, program: PathBuf, directory: PathBuf, environment: Vec<(String, String)>) -> Result<Self> {
        let (name, port) = (name.to_owned(), port()?);
        Ok(Self { name, program, directory, environment, port, running: None })
    }

    /// The address of its HTTP, the same at each start.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Whether it was started and neither stopped nor killed since.
    pub fn is_wanted(&self) -> bool {
        self.running.is_some()
    }

    /// Starts it, with more environment for this time only.
    pub fn start(&mut self, more: &[(String, String)]) -> Result<()> {
        let log = File::options().append(true).create(true).open(self.log())?;
        let mut command = Guarded::command(&self.program, Stop { signal: "KILL", ..Stop::default() });
        command.current_dir(&self.directory).env("SAGA_HTTP", format!("127.0.0.1:{}", self.port));
        command.envs(self.environment.iter().chain(more).map(|(name, value)| (name, value)));
        self.running = Some(Guarded::spawn(command.stdout(log.try_clone()?).stderr(log))?);
        Ok(())
    }

    /// `kill -9`.
    pub async fn kill(&mut self) -> Result<()> {
        if let Some(running) = self.running.take() {
            running.crash().await.with_context(|| format!("{} was not killed", self.name))?;
        }
        Ok(())
    }

    /// Sends it a signal.
    pub async fn signal(&self, name: &str) -> Result<()> {
        let running = self.running.as_ref().with_context(|| format!("{} does not run", self.name))?;
        running.signal(name).await.with_context(|| format!("{name} to {}", self.name))
    }

    /// SIGTERM; how long it took to end, and the exit code. One that hangs is killed.
    pub async fn stop(&mut self) -> Result<(Duration, Option<i32>)> {
        let mut running = self.running.take().with_context(|| format!("{} does not run", self.name))?;
        let begin = Instant::now();
        running.signal("TERM").await.with_context(|| format!("TERM to {}", self.name))?;
        let ended = tokio::time::timeout(STOP_BOUND, running.wait()).await;
        Ok((begin.elapsed(), ended.ok().transpose()?.and_then(|status| status.code())))
    }

    /// What it said last, if it ended by itself. It does not run then.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.running.as_mut()?.ended()?;
        self.running = None;
        Some(format!("{status}: {}", self.last_lines()))
    }

    /// Waits until it ends by itself; its status as text.
    pub async fn wait(&mut self, bound: Duration) -> Option<String> {
        let begin = Instant::now();
        while begin.elapsed() < bound {
            if let Some(ended) = self.ended() {
                return Some(ended);
            }
            tokio::time::sleep(POLL).await;
        }
        None
    }

    /// Waits until it can do its work.
    pub async fn until_ready(&mut self, client: &reqwest::Client) -> Result<()> {
        let url = format!("{}/ready", self.url());
        let begin = Instant::now();
        while !client.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
            if self.running.is_none() || begin.elapsed() > READY_BOUND {
                bail!("{} did not become ready: {}", self.name, self.last_lines());
            }
            if self.ended().is_some() {
                // Whoever runs services starts them again; it ended because something was away when it started.
                tokio::time::sleep(10 * POLL).await;
                self.start(&[])?;
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.directory.join(format!("{}.log", self.name))
    }

    fn last_lines(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(LAST_LINES).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }
}

/// A port that stays free while nobody listens: below those that the system gives to outgoing connections, which would take it
/// from a process that is down for a moment.
pub fn port() -> Result<u16> {
    let begin = 12_000 + u16::try_from(std::process::id() % 15_000)?;
    let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    (begin + next..32_000)
        .find(free)
        .inspect(|port| {
            NEXT.store(port - begin + 1, std::sync::atomic::Ordering::Relaxed);
        })
        .context("no port is free")
}

static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
