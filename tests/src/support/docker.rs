//! Containers, where a Docker engine runs (having the `docker` command is not enough).

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::{Guarded, Stop, last_lines, on_path};

/// An engine that does not answer soon is not there for us.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Some hundred megabytes over a slow line.
const PULL_LIMIT: Duration = Duration::from_secs(600);

/// Whether an engine answers.
pub(super) async fn is_running() -> bool {
    if on_path("docker").is_none() {
        return false;
    }
    let mut command = Guarded::command("docker", Stop::default());
    let answer = Guarded::output(command.arg("info"), ANSWER_LIMIT).await;
    answer.is_ok_and(|(status, _)| status.success())
}

/// Brings an image here, apart from running it, so that the limit for the start need not allow for a download.
pub(super) async fn pull(image: &str) -> io::Result<()> {
    let mut inspect = Guarded::command("docker", Stop::default());
    inspect.args(["image", "inspect", image]);
    if Guarded::output(&mut inspect, ANSWER_LIMIT).await?.0.success() {
        return Ok(());
    }
    let mut pull = Guarded::command("docker", Stop::default());
    let (status, printed) = Guarded::output(pull.args(["pull", "--quiet", image]), PULL_LIMIT).await?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("docker pull {image}: {}", last_lines(&printed, 3))))
    }
}

/// A `docker run` of an image with one of its ports published on loopback; add the image's arguments and start it.
///
/// `environment` is passed by name only: the values travel in the environment of the command, not in its arguments,
/// which every user of the machine can read.
pub(super) fn run(image: &str, name: &str, published: (u16, u16), environment: &[(String, String)]) -> Command {
    let (here, inside) = published;
    let mut command = Guarded::command("docker", Stop { container: Some(name), ..Stop::default() });
    command.args(["run", "--rm", "--name", name, "--publish", &format!("127.0.0.1:{here}:{inside}")]);
    for (key, value) in environment {
        command.args(["--env", key]).env(key, value);
    }
    command.arg(image).stdout(Stdio::null()).stderr(Stdio::null());
    command
}
