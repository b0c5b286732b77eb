//! Where the program of Jaeger comes from: this machine, or its sources, which Go compiles once.
//!
//! Jaeger publishes its releases where not every machine can fetch from, and its sources as a Go module, which every Go can:
//! Jaeger's own `go.mod` and `go.sum` pin all it is made of, and the hash below pins Jaeger.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;
use tokio::time::{interval, timeout};

use super::{Guarded, JAEGER_VARIABLE, Missing, Progress, Stop, last_lines, on_path, target_dir, variable};

/// As a Go module; Jaeger calls the same release 2.13.0.
const VERSION: &str = "1.76.0";
const MODULE: &str = "github.com/jaegertracing/jaeger";
/// What Go calls the module's sum.
const SUM: &str = "h1:sWCOOF1dr+NL0PLil7mFo3BqqQL8k4WiM7aguFbc14g=";
/// What Jaeger's `go.mod` asks for.
const OLDEST_GO: [u32; 3] = [1, 24, 6];
/// The one that Jaeger is built with by its authors.
const INSTALLED_GO: &str = "1.25.4";

/// Some megabytes over a slow line.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(600);
/// Two cores need four to twelve minutes, and more while they have other work to do.
const BUILD_LIMIT: Duration = Duration::from_secs(2400);
/// Seldom enough for a log, often enough for a person.
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// The program of Jaeger 2: the one that `SAGA_TEST_JAEGER` names, the one on PATH, the one that was built before, or one that is
/// built now, which takes minutes the first time. The build gives way to whatever else the machine has to do.
///
/// # Errors
///
/// [`Missing`] says which Go is not installed, or why what is there did not build.
pub async fn jaeger_binary(progress: Progress<'_>) -> Result<PathBuf, Missing> {
    if let Some(named) = variable(JAEGER_VARIABLE).map(PathBuf::from) {
        return match named.is_file() {
            true => Ok(named),
            false => Err(failed(format!("{JAEGER_VARIABLE} is set, but {} is no file", named.display()))),
        };
    }
    let built = folder().join("jaeger");
    if let Some(there) = on_path("jaeger").or_else(|| Some(built).filter(|file| file.is_file())) {
        return Ok(there);
    }
    let go = go().await.map_err(|why| Missing { install: Some(install()), ..failed(why) })?;
    progress(&format!("building Jaeger {VERSION} with Go, which takes minutes and is kept for the next time"));
    let built = build(&go, progress).await.map_err(|error| failed(error.to_string()))?;
    progress(&format!("Jaeger {VERSION} is built"));
    Ok(built)
}

/// Below the target directory, as everything that was fetched.
fn folder() -> PathBuf {
    target_dir().join("servers").join(format!("jaeger-{VERSION}"))
}

async fn build(go: &Path, progress: Progress<'_>) -> io::Result<PathBuf> {
    let folder = folder();
    let parent = folder.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;
    let scratch = tempfile::tempdir_in(parent)?;
    let stop = Stop { directory: Some(scratch.path()), ..Stop::default() };
    let sources = sources(go, scratch.path()).await?;

    let (files, log) = (scratch.path().join("files"), scratch.path().join("log"));
    let output = fs::File::create(&log)?;
    let mut command = command(Guarded::command("nice", stop), scratch.path());
    command.args(["-n", "19"]).arg(go).arg("build").arg("-C").arg(sources);
    command.args(["-v", "-trimpath", "-ldflags=-s -w", "-o"]).arg(files.join("jaeger")).arg("./cmd/jaeger");
    // Held until the result has left the scratch directory, which goes with it.
    let mut process = Guarded::spawn(command.stdout(output.try_clone()?).stderr(output))?;
    let compiled = || fs::read_to_string(&log).unwrap_or_default();
    let report = || progress(&format!("building Jaeger: {} packages so far", compiled().lines().count()));
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("it took more than {} s", BUILD_LIMIT.as_secs()));
    let status = timeout(BUILD_LIMIT, ended(&mut process, &report)).await.map_err(late)??;
    if !status.success() {
        return Err(io::Error::other(format!("Go did not build it ({status}):\n{}", last_lines(&compiled(), 8))));
    }
    // Somebody else may have built the same in the meantime; theirs is as good.
    fs::rename(&files, &folder).or_else(|error| if folder.is_dir() { Ok(()) } else { Err(error) })?;
    Ok(folder.join("jaeger"))
}

async fn ended(process: &mut Guarded, report: &(dyn Fn() + Sync)) -> io::Result<ExitStatus> {
    let mut ticks = interval(REPORT_EVERY);
    ticks.tick().await; // the first is at once
    loop {
        tokio::select! {
            status = process.wait() => return status,
            _ = ticks.tick() => report(),
        }
    }
}

/// The folder that Go keeps the sources in, once their hash is the one we know.
async fn sources(go: &Path, scratch: &Path) -> io::Result<PathBuf> {
    let mut command = command(Guarded::command(go, Stop::default()), scratch);
    command.args(["mod", "download", "-json", &format!("{MODULE}@v{VERSION}")]);
    let (status, printed) = Guarded::output(&mut command, DOWNLOAD_LIMIT).await?;
    // The object, and after it what Go said while it downloaded.
    let object = serde_json::Deserializer::from_str(&printed).into_iter::<Value>().next().and_then(Result::ok);
    let field = |name: &str| object.as_ref().and_then(|object| object[name].as_str());
    match (field("Sum"), field("Dir")) {
        (Some(SUM), Some(folder)) => Ok(folder.into()),
        (Some(other), _) => Err(io::Error::other(format!("the sum of {MODULE} is {other}, expected {SUM}"))),
        _ => Err(io::Error::other(format!("Go could not fetch it ({status}):\n{}", last_lines(&printed, 8)))),
    }
}

/// In a directory without a `go.mod`, with nothing but the Go that is installed, whatever workspace this user works in. What a killed
/// Go leaves behind goes with the directory.
fn command(mut command: Command, directory: &Path) -> Command {
    command.current_dir(directory).env("GOTMPDIR", directory).env("GOWORK", "off").env("GOTOOLCHAIN", "local");
    command
}

/// The Go to build with, or why there is none.
async fn go() -> Result<PathBuf, String> {
    // Where Go's own instructions put it, on PATH or not.
    let usual = Some(PathBuf::from("/usr/local/go/bin/go")).filter(|file| file.is_file());
    let go = on_path("go").or(usual).ok_or_else(|| "no jaeger and no Go is on PATH".to_owned())?;
    let mut command = Guarded::command(&go, Stop::default());
    command.arg("version").env("GOTOOLCHAIN", "local");
    let answer = Guarded::output(&mut command, Duration::from_secs(60)).await;
    let (_, printed) = answer.map_err(|error| format!("Go: {error}"))?;
    let dotted = |version: [u32; 3]| version.map(|number| number.to_string()).join(".");
    match go_version(&printed) {
        Some(version) if version >= OLDEST_GO => Ok(go),
        Some(version) => Err(format!("Go {} is too old, Jaeger needs {}", dotted(version), dotted(OLDEST_GO))),
        None => Err(format!("{} does not say its version", go.display())),
    }
}

/// The version in `go version go1.26.8 linux/amd64`; a missing number is 0.
fn go_version(printed: &str) -> Option<[u32; 3]> {
    let word =
        printed.split_whitespace().find_map(|word| word.strip_prefix("go").filter(|rest| rest.starts_with('1')))?;
    let mut version = [0; 3];
    for (number, text) in version.iter_mut().zip(word.split('.')) {
        let digits = text.find(|c: char| !c.is_ascii_digit()).map_or(text, |end| &text[..end]);
        *number = digits.parse().ok()?;
    }
    Some(version)
}

/// Debian's own Go is too old.
fn install() -> String {
    let system = if cfg!(target_os = "macos") { "darwin" } else { std::env::consts::OS };
    let machine = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("curl -fsSL https://go.dev/dl/go{INSTALLED_GO}.{system}-{machine}.tar.gz | tar -C /usr/local -xz")
}

fn failed(why: String) -> Missing {
    Missing { what: format!("Jaeger {VERSION}"), why, install: None }
}

#[cfg(test)]
mod tests {
    use super::{OLDEST_GO, go_version};

    #[test]
    fn go_says_its_version() {
        assert_eq!(go_version("go version go1.26.8 linux/amd64"), Some([1, 26, 8]));
        assert_eq!(go_version("go version go1.25rc1 linux/amd64"), Some([1, 25, 0]));
        assert_eq!(go_version("go version devel go1.27-0d1ac2b Wed linux/arm64"), Some([1, 27, 0]));
        assert_eq!(go_version("Error: could not find it"), None);
    }

    #[test]
    fn the_go_of_an_older_debian_is_too_old() {
        assert!(go_version("go version go1.19.8 linux/amd64").unwrap() < OLDEST_GO);
        assert!(go_version("go version go1.24.6 linux/amd64").unwrap() >= OLDEST_GO);
    }
}
