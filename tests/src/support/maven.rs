//! Java programs and their libraries, fetched by Maven from wherever this machine's Maven fetches.
//!
//! What was fetched stays below the target directory, one folder per version. A folder appears by a rename when it is
//! complete, so a broken download leaves nothing behind that looks like a good one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Guarded, Stop, last_lines, on_path, target_dir};

/// A pinned goal of a pinned plugin, so that the same files arrive whatever Maven's own defaults are.
const COPY: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";

/// Fifty megabytes over a slow line.
const FETCH_LIMIT: Duration = Duration::from_secs(600);

/// An artifact as Maven names it: group, artifact, version.
pub(super) type Artifact<'a> = (&'a str, &'a str, &'a str);

/// Whether Maven is installed.
pub(super) fn is_installed() -> bool {
    on_path("mvn").is_some()
}

/// The folder that these artifacts are kept in, when they were fetched before.
pub(super) fn fetched(name: &str) -> Option<PathBuf> {
    Some(folder(name)).filter(|folder| folder.is_dir())
}

/// Fetches artifacts with all they need at run time into one folder.
pub(super) async fn fetch(name: &str, artifacts: &[Artifact<'_>]) -> io::Result<PathBuf> {
    let folder = folder(name);
    let parent = folder.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;
    let scratch = tempfile::tempdir_in(parent)?;
    let (project, files) = (scratch.path().join("pom.xml"), scratch.path().join("files"));
    fs::write(&project, project_with(artifacts))?;

    let mut command = Guarded::command("mvn", Stop::default());
    command.args(["--batch-mode", "--quiet", "--no-transfer-progress", COPY, "--file"]).arg(&project);
    command.arg("-DincludeScope=runtime").arg(format!("-DoutputDirectory={}", files.display()));
    let (status, printed) = Guarded::output(&mut command, FETCH_LIMIT).await?;
    if !status.success() {
        return Err(io::Error::other(format!("Maven could not fetch it ({status}):\n{}", last_lines(&printed, 8))));
    }
    // Somebody else may have fetched the same in the meantime; theirs is as good.
    fs::rename(&files, &folder).or_else(|error| if folder.is_dir() { Ok(()) } else { Err(error) })?;
    Ok(folder)
}

fn folder(name: &str) -> PathBuf {
    target_dir().join("servers").join(name)
}

fn project_with(artifacts: &[Artifact<'_>]) -> String {
    let dependency = |(group, artifact, version): &Artifact<'_>| {
        format!(
            "<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>\
             <version>{version}</version></dependency>"
        )
    };
    let dependencies: String = artifacts.iter().map(dependency).collect();
    format!(
        "<project><modelVersion>4.0.0</modelVersion><groupId>local</groupId><artifactId>servers</artifactId>\
         <version>1</version><dependencies>{dependencies}</dependencies></project>\n"
    )
}
