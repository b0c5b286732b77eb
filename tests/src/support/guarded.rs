//! A child process that does not outlive its parent, however the parent ends.
//!
//! The child leads a process group of its own. In that group a small shell watcher waits for the end of a pipe whose
//! other end only we hold; the kernel closes it when we die, by `kill -9` too. Then the watcher stops the child, removes
//! what the child leaves behind and kills what remains of the group. Dropping a [`Guarded`] closes the same pipe, so
//! there is one way to stop and it is exercised at every run.
//!
//! ```text
//!   parent ──── lifeline (a pipe) ────► watcher (sh) ── stop, remove, kill the group ─┐
//!      └──────────────────────────────► child ◄──────────────────────────────────────┘
//! ```
//!
//! Linux has a parent-death signal, but setting it needs unsafe code and it follows the *thread* that spawned the child.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};

/// The child replaces the shell that runs this, so that the process we know is the child itself. The watcher keeps no
/// output of the child open: a reader of that output must see its end when the child ends. A child that nobody has reaped
/// yet counts as gone, as the first process of a container may take its time over that.
const WATCHER: &str = r#"
stop=$1 directory=$2 container=$3
shift 3
exec 3<&0 </dev/null
(
    trap '' HUP TERM
    read -r word <&3
    [ "$word" != keep ] || directory=
    kill -s "$stop" $$
    [ -z "$container" ] || docker rm --force --volumes "$container"
    tries=0
    while kill -0 $$ && ! grep -qs '^State:.*zombie' /proc/$$/status && [ $tries -lt 200 ]; do
        sleep 0.05
        tries=$((tries + 1))
    done
    kill -s KILL $$
    kill -s TERM -- -$$
    until [ -z "$directory" ] || rm -rf -- "$directory" || [ $tries -ge 220 ]; do
        sleep 0.05
        tries=$((tries + 1))
    done
    kill -s KILL -- -$$
) >/dev/null 2>&1 &
exec "$@" 3<&-
"#;

/// The watcher gives the child ten seconds before it kills it; after a little more we stop waiting for either.
const PATIENCE: Duration = Duration::from_secs(12);

/// How to stop a child, and what to remove after it.
#[derive(Debug, Clone, Copy)]
pub struct Stop<'a> {
    /// The signal that asks it to stop, without `SIG`.
    pub signal: &'a str,
    /// A directory to remove, should the parent not live to do it; kept when [`Guarded::output`] saw the child end.
    pub directory: Option<&'a Path>,
    /// A container to remove: a killed `docker run` does not end its container.
    pub container: Option<&'a str>,
}

impl Default for Stop<'_> {
    fn default() -> Self {
        Self { signal: "TERM", directory: None, container: None }
    }
}

/// A running child process; dropping it stops the child and what the child started, and waits until the child is gone.
#[derive(Debug)]
pub struct Guarded {
    child: Child,
    lifeline: Option<ChildStdin>,
}

impl Guarded {
    /// A command for [`spawn`](Self::spawn) and [`output`](Self::output): add arguments, environment, directory, user and
    /// output to it. It will have no input, and a program that does not exist shows as exit code 127.
    #[must_use]
    pub fn command(program: impl AsRef<OsStr>, stop: Stop<'_>) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", WATCHER, "sh", stop.signal]);
        command.arg(stop.directory.unwrap_or(Path::new("")));
        command.arg(stop.container.unwrap_or_default());
        command.arg(program);
        // A group of its own: Ctrl-C in a terminal reaches us and not the child, which we stop in our own order.
        command.stdin(Stdio::piped()).process_group(0);
        command
    }

    /// Starts a command that [`command`](Self::command) began.
    ///
    /// # Errors
    ///
    /// There is no shell to start.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        let mut child = command.spawn()?;
        let lifeline = child.stdin.take();
        Ok(Self { child, lifeline })
    }

    /// Runs a command to its end; returns its status and what it printed, on stdout and then on stderr.
    ///
    /// # Errors
    ///
    /// The command could not be started or did not end in time.
    pub async fn output(command: &mut Command, limit: Duration) -> io::Result<(ExitStatus, String)> {
        let mut guarded = Self::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
        let stdout = read(guarded.child.stdout.take());
        let stderr = read(guarded.child.stderr.take());
        let all = async { tokio::try_join!(guarded.child.wait(), stdout, stderr) };
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("it took more than {} s", limit.as_secs()));
        let (status, stdout, stderr) = tokio::time::timeout(limit, all).await.map_err(late)??;
        if let Some(lifeline) = &mut guarded.lifeline {
            // Should the watcher be gone, so is the danger that it removes anything.
            let _ = lifeline.write_all(b"keep\n").await;
        }
        Ok((status, stdout + &stderr))
    }

    /// Waits for the child to end by itself.
    ///
    /// # Errors
    ///
    /// As [`Child::wait`].
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// The process id of the child, or none after it ended.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// The status of a child that has ended by itself, or none while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends the child, and nothing that it started, a signal by its name, such as `STOP`.
    ///
    /// # Errors
    ///
    /// The child is gone.
    pub async fn signal(&self, name: &str) -> io::Result<()> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, "the child has ended");
        let pid = self.child.id().ok_or_else(gone)?.to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status().await?;
        if status.success() { Ok(()) } else { Err(gone()) }
    }

    /// Kills the child as `kill -9` does and waits for its end. What was to be removed after it stays.
    ///
    /// # Errors
    ///
    /// As [`Child::wait`].
    pub async fn crash(mut self) -> io::Result<ExitStatus> {
        if self.ended().is_none() {
            self.child.start_kill()?;
        }
        let status = self.child.wait().await?;
        if let Some(lifeline) = &mut self.lifeline {
            // Should the watcher be gone, so is the danger that it removes anything.
            let _ = lifeline.write_all(b"keep\n").await;
        }
        Ok(status)
    }

    /// Begins to stop the child without waiting for it, so that several can stop at the same time.
    pub fn begin_to_stop(&mut self) {
        self.lifeline = None;
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.begin_to_stop();
        let begin = Instant::now();
        while self.ended().is_none() && begin.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

async fn read(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<String> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        pipe.read_to_end(&mut bytes).await?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    /// Whether a process is there and not only waiting to be reaped.
    fn runs(pid: &str) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
    }

    async fn until(condition: impl Fn() -> bool) {
        let wait = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LIMIT, wait).await.expect("the condition within the limit");
    }

    #[tokio::test]
    async fn output_is_the_status_and_both_streams() {
        let mut command = Guarded::command("sh", Stop::default());
        command.args(["-c", "echo out; echo err >&2; exit 3"]);
        let (status, text) = Guarded::output(&mut command, LIMIT).await.unwrap();
        assert_eq!((status.code(), text.as_str()), (Some(3), "out\nerr\n"));
    }

    #[tokio::test]
    async fn a_child_that_takes_too_long_is_an_error() {
        let mut command = Guarded::command("sleep", Stop::default());
        let error = Guarded::output(command.arg("60"), Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_crash_is_sudden_and_the_directory_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let stop = Stop { directory: Some(scratch.path()), ..Stop::default() };
        let mut command = Guarded::command("sh", stop);
        command.args(["-c", "trap '' TERM; sleep 600 & echo $! > \"$0\"; wait"]).arg(scratch.path().join("pid"));
        let guarded = Guarded::spawn(&mut command).unwrap();
        let pid = scratch.path().join("pid");
        until(|| fs::read_to_string(&pid).is_ok_and(|text| text.ends_with('\n'))).await;
        let left_running = fs::read_to_string(&pid).unwrap();

        let status = guarded.crash().await.unwrap();

        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
        until(|| !runs(&left_running)).await;
        assert!(scratch.path().is_dir());
    }

    /// The watcher's last act is to kill what the child left running, so whoever is left running tells when it is over.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_directory_of_a_child_that_was_waited_for_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let stop = Stop { directory: Some(scratch.path()), ..Stop::default() };
        let mut command = Guarded::command("sh", stop);
        command.args(["-c", "sleep 600 >/dev/null 2>&1 & echo $!"]);
        let (_, left_running) = Guarded::output(&mut command, LIMIT).await.unwrap();
        until(|| !runs(&left_running)).await;
        assert!(scratch.path().is_dir());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn dropping_stops_the_child_and_what_it_started() {
        let scratch = tempfile::tempdir().unwrap();
        let pids = scratch.path().join("pids");
        let mut command = Guarded::command("sh", Stop::default());
        command.args(["-c", "sleep 600 & echo $$ $! > \"$0\"; wait"]).arg(&pids);
        let guarded = Guarded::spawn(&mut command).unwrap();
        until(|| fs::read_to_string(&pids).is_ok_and(|text| text.ends_with('\n'))).await;
        let pids = fs::read_to_string(&pids).unwrap();
        assert!(pids.split_whitespace().all(runs), "{pids}");

        drop(guarded);

        until(|| !pids.split_whitespace().any(runs)).await;
    }

    /// This test starts itself a second time, as the parent that gets killed.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_killed_parent_leaves_neither_process_nor_directory() {
        const PARENT: &str = "SAGA_TEST_GUARDED_PARENT";
        if let Some(scratch) = std::env::var_os(PARENT).map(std::path::PathBuf::from) {
            let left = scratch.join("left");
            let stop = Stop { signal: "KILL", directory: Some(&left), container: None };
            let mut command = Guarded::command("sh", stop);
            command.args(["-c", "sleep 600 & echo $$ $! > \"$0\"; wait"]).arg(scratch.join("pids"));
            Guarded::spawn(&mut command).unwrap().wait().await.unwrap();
            return;
        }

        let scratch = tempfile::tempdir().unwrap();
        let (pids, left) = (scratch.path().join("pids"), scratch.path().join("left"));
        fs::create_dir(&left).unwrap();
        let this = "support::guarded::tests::a_killed_parent_leaves_neither_process_nor_directory";
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", this, "--nocapture"]).env(PARENT, scratch.path()).stdout(Stdio::null());
        let mut parent = command.kill_on_drop(true).spawn().unwrap();
        until(|| fs::read_to_string(&pids).is_ok_and(|text| text.ends_with('\n'))).await;
        let pids = fs::read_to_string(&pids).unwrap();
        assert!(pids.split_whitespace().all(runs), "{pids}");

        parent.kill().await.unwrap(); // SIGKILL

        until(|| !pids.split_whitespace().any(runs) && !left.exists()).await;
    }
}
