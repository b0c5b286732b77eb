//! JavaScript programs that check what other people's tools read, with their packages as a lock file pins them.
//!
//! Packages stay below the target directory, one folder per lock file. A folder appears by a rename when it is complete.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Guarded, Stop, lacking, last_lines, on_path, target_dir};

/// Twenty megabytes over a slow line.
const FETCH_LIMIT: Duration = Duration::from_secs(300);
/// A check reads a few files; the rest is a machine under load.
const RUN_LIMIT: Duration = Duration::from_secs(120);

/// A folder with a `package.json`, whose packages are installed.
#[derive(Debug)]
pub struct Node(PathBuf);

/// The JavaScript project in `source` (`package.json`, `package-lock.json`, `.npmrc` and its programs) with its packages installed,
/// or none after saying loudly that this test is skipped.
///
/// # Panics
///
/// Where nothing may be skipped: under `CI=true` and `SAGA_TEST_REQUIRE=1`.
#[must_use]
pub async fn require_node(source: &Path) -> Option<Node> {
    if on_path("node").is_none() || on_path("npm").is_none() {
        return lacking("node", "node or npm is not installed (apt-get install -y nodejs npm)");
    }
    match installed(source).await {
        Ok(folder) => Some(Node(folder)),
        Err(error) => lacking("packages for node", &format!("they could not be installed: {error}")),
    }
}

impl Node {
    /// Runs a program of the project to its end; the error is what it printed.
    pub async fn run(&self, program: &str, argument: &Path) -> anyhow::Result<String> {
        let mut command = Guarded::command("node", Stop::default());
        command.arg(self.0.join(program)).arg(argument);
        let (status, printed) = Guarded::output(&mut command, RUN_LIMIT).await?;
        anyhow::ensure!(status.success(), "{program} failed ({status}):\n{printed}");
        Ok(printed)
    }
}

async fn installed(source: &Path) -> io::Result<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(source)? {
        let path = entry?.path();
        if path.is_file() {
            files.push((path.file_name().unwrap_or_default().to_owned(), fs::read(&path)?));
        }
    }
    files.sort();
    // The programs of the project, too: a folder is never written to again.
    let mut hasher = DefaultHasher::new();
    files.hash(&mut hasher);
    let folder = target_dir().join("node").join(format!("{:016x}", hasher.finish()));
    if folder.is_dir() {
        return Ok(folder);
    }
    let parent = folder.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;
    let scratch = tempfile::tempdir_in(parent)?;
    for (name, content) in &files {
        fs::write(scratch.path().join(name), content)?;
    }
    let mut command = Guarded::command("npm", Stop::default());
    // Nothing that a package would run when it is installed is run.
    command.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", "--prefix"]);
    command.arg(scratch.path()).current_dir(scratch.path());
    let (status, printed) = Guarded::output(&mut command, FETCH_LIMIT).await?;
    if !status.success() {
        return Err(io::Error::other(format!("npm ci failed ({status}):\n{}", last_lines(&printed, 8))));
    }
    // Somebody else may have installed the same in the meantime; theirs is as good.
    fs::rename(scratch.path(), &folder).or_else(|error| if folder.is_dir() { Ok(()) } else { Err(error) })?;
    Ok(folder)
}
