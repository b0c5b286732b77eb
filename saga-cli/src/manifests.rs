//! The manifests of a choreography, as they come to the command line: from files, from standard input, or from the services
//! themselves.
//!
//! The invariant: whoever is asked has a bound of time and of bytes, and is run as it is named, never by a shell.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use saga_choreography::Choreography;
use saga_core::Manifest;
use serde_json::value::RawValue;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Command,
    time::timeout,
};

/// How long a service may take to describe itself: it connects to nothing, so this is a machine under load.
const PATIENCE: Duration = Duration::from_secs(20);
/// The most bytes of one source. A manifest of a hundred steps with all their schemas has less than one of these MiB.
const MOST: u64 = 16 * 1024 * 1024;

/// Where the manifests are.
#[derive(Debug, Args)]
pub(crate) struct Manifests {
    /// What `SERVICE describe --json` printed, one after another or as a JSON array; - is standard input
    #[arg(value_name = "MANIFEST.json")]
    pub(crate) files: Vec<PathBuf>,
    /// A service to ask itself: runs `PROGRAM describe --json`; may be repeated
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) bin: Vec<PathBuf>,
}

impl Manifests {
    /// Reads them all, files first, in the order in which they are named. Errors name the file and what to do.
    pub(crate) async fn read(&self) -> anyhow::Result<Choreography> {
        let sourced = self.sourced().await?;
        Ok(Choreography::from(sourced.into_iter().map(|(_, manifest)| manifest).collect::<Vec<_>>()))
    }

    /// The same, each with the file or the program that it is from.
    pub(crate) async fn sourced(&self) -> anyhow::Result<Vec<(PathBuf, Manifest)>> {
        ensure!(
            !self.files.is_empty() || !self.bin.is_empty(),
            "which manifests? Name files, each what SERVICE describe --json printed, or --bin PROGRAM for each service"
        );
        let mut manifests = Vec::new();
        for path in &self.files {
            manifests.extend(file(path).await?.into_iter().map(|manifest| (path.clone(), manifest)));
        }
        for program in &self.bin {
            manifests.extend(program_says(program).await?.into_iter().map(|manifest| (program.clone(), manifest)));
        }
        Ok(manifests)
    }
}

async fn file(path: &Path) -> anyhow::Result<Vec<Manifest>> {
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().lock().take(MOST + 1).read_to_end(&mut bytes).context("standard input cannot be read")?;
        return text(bytes).and_then(|text| parsed(&text)).context("on standard input");
    }
    let file = tokio::fs::File::open(path).await.with_context(|| {
        format!("{} cannot be opened; make it with SERVICE describe --json > {}", path.display(), path.display())
    })?;
    let bytes = bytes(file).await.with_context(|| format!("{} cannot be read", path.display()))?;
    text(bytes).and_then(|text| parsed(&text)).with_context(|| format!("in {}", path.display()))
}

async fn program_says(program: &Path) -> anyhow::Result<Vec<Manifest>> {
    let name = program.display();
    let mut child = Command::new(program)
        .args(["describe", "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("{name} cannot be run; give --bin the path of a service's program"))?;
    let Some(stdout) = child.stdout.take() else { bail!("{name} has no output") };
    // A program that writes for ever is not read to its end: dropping the pipe and the child ends it.
    let answer = async {
        let text = text(bytes(stdout).await?)?;
        anyhow::Ok((text, child.wait().await?))
    };
    let Ok(answer) = timeout(PATIENCE, answer).await else {
        bail!(
            "{name} describe --json was not done within {PATIENCE:?}; it should print its manifest and connect to nothing"
        );
    };
    let (text, status) = answer.with_context(|| format!("{name} describe --json cannot be read"))?;
    ensure!(status.success(), "{name} describe --json failed ({status}); run it by hand to see why");
    parsed(&text).with_context(|| format!("what {name} describe --json printed"))
}

async fn bytes(from: impl AsyncRead + Unpin) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MOST + 1).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

fn text(bytes: Vec<u8>) -> anyhow::Result<String> {
    ensure!(bytes.len() as u64 <= MOST, "it has more than {MOST} bytes, so it is no manifest");
    String::from_utf8(bytes).context("it is no UTF-8, so it is no manifest")
}

/// One after another, because `cat` puts them so, and each one or an array of them.
fn parsed(text: &str) -> anyhow::Result<Vec<Manifest>> {
    let mut manifests = Vec::new();
    for json in serde_json::Deserializer::from_str(text).into_iter::<&RawValue>() {
        manifests.extend(Manifest::read(json.context("this is not JSON")?.get())?);
    }
    ensure!(!manifests.is_empty(), "there is no manifest; SERVICE describe --json prints one");
    Ok(manifests)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn manifest(participant: &str) -> String {
        format!(r#"{{"manifest":1,"participant":"{participant}","steps":[],"events":{{}}}}"#)
    }

    async fn read(files: &[&Path], bin: &[&Path]) -> Result<Vec<String>, String> {
        let owned = |paths: &[&Path]| paths.iter().map(|path| path.to_path_buf()).collect();
        let read = Manifests { files: owned(files), bin: owned(bin) }.read().await;
        let names = |choreography: Choreography| choreography.manifests.into_iter().map(|m| m.participant).collect();
        read.map(names).map_err(|error| format!("{error:#}"))
    }

    fn program(dir: &Path, name: &str, script: &str) -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[tokio::test]
    async fn manifests_come_one_after_another_and_in_arrays() {
        let dir = tempfile::tempdir().unwrap();
        let (two, array) = (dir.path().join("two"), dir.path().join("array"));
        fs::write(&two, manifest("a") + "\n" + &manifest("b")).unwrap();
        fs::write(&array, format!("[{},{}]", manifest("c"), manifest("d"))).unwrap();
        assert_eq!(read(&[&two, &array], &[]).await.unwrap(), ["a", "b", "c", "d"]);
    }

    /// All in one test: a file that another thread is writing while this one starts a program cannot be run.
    #[tokio::test]
    async fn a_service_is_asked_within_bounds() {
        let dir = tempfile::tempdir().unwrap();
        let answer = format!("[ \"$*\" = 'describe --json' ] && echo '{}'", manifest("e"));
        assert_eq!(read(&[], &[&program(dir.path(), "service", &answer)]).await.unwrap(), ["e"]);
        for (name, script, expected) in [
            ("sick", "exit 3", "exit status: 3"),
            ("flood", "exec yes", "more than"),
            ("talker", "echo hello", "not JSON"),
            ("mute", "exit 0", "there is no manifest"),
        ] {
            let error = read(&[], &[&program(dir.path(), name, script)]).await.unwrap_err();
            assert!(error.contains(name) && error.contains(expected), "{error}");
        }
        assert!(read(&[], &[Path::new("no/such/program")]).await.unwrap_err().contains("cannot be run"));
    }

    #[tokio::test]
    async fn an_error_names_the_file_and_the_fix() {
        let dir = tempfile::tempdir().unwrap();
        let refused = async |name: &str, text: &str| {
            fs::write(dir.path().join(name), text).unwrap();
            read(&[&dir.path().join(name)], &[]).await.unwrap_err()
        };
        assert!(read(&[], &[]).await.unwrap_err().contains("--bin PROGRAM"));
        let error = read(&[&dir.path().join("missing.json")], &[]).await.unwrap_err();
        assert!(error.contains("missing.json") && error.contains("describe --json >"), "{error}");
        let error = refused("no.json", "{").await;
        assert!(error.contains("no.json") && error.contains("not JSON"), "{error}");
        let error = refused("old.json", r#"{"manifest":9}"#).await;
        assert!(error.contains("old.json") && error.contains("format 9"), "{error}");
        assert!(refused("empty.json", " ").await.contains("there is no manifest"));
    }
}
