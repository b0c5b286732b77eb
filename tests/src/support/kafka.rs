//! One Apache Kafka broker, started for tests or found running.
//!
//! `SAGA_TEST_KAFKA` wins; else a container, where a Docker engine runs; else the broker itself on this machine's Java,
//! fetched by Maven once and kept below the target directory. It is a single node in KRaft mode with settings that only
//! suit tests: nothing is replicated, and nobody waits for further members before a consumer group is balanced.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use super::maven::{self, Artifact};
use super::{Guarded, KAFKA_VARIABLE, Missing, Progress, Stop, docker, free_ports, last_lines, on_path, variable};

const VERSION: &str = "4.3.1";
const IMAGE: &str = "apache/kafka:4.3.1";
const ARTIFACTS: [Artifact<'_>; 3] = [
    ("org.apache.kafka", "kafka_2.13", VERSION),
    // What the broker logs with; the version its own libraries ask for.
    ("org.apache.logging.log4j", "log4j-core", LOG4J),
    ("org.apache.logging.log4j", "log4j-slf4j-impl", LOG4J),
];
const LOG4J: &str = "2.25.4";

/// Kafka 4 needs it.
const OLDEST_JAVA: u32 = 17;
const INSTALL: &str = "apt-get install -y default-jre-headless maven";

/// About two seconds on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(90);

/// Any 16 bytes in URL-safe base64. The same every time: no two of these brokers ever meet.
const CLUSTER_ID: &str = "c2FnYS10ZXN0LWthZmthLQ";

const SETTINGS: [(&str, &str); 15] = [
    ("process.roles", "broker,controller"),
    ("node.id", "1"),
    ("controller.listener.names", "CONTROLLER"),
    ("listener.security.protocol.map", "CLIENT:PLAINTEXT,BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT"),
    ("inter.broker.listener.name", "BROKER"),
    // A misspelt topic must fail a test and not come into being.
    ("auto.create.topics.enable", "false"),
    // One node cannot hold three copies, and without these its internal topics would never come into being.
    ("offsets.topic.replication.factor", "1"),
    ("transaction.state.log.replication.factor", "1"),
    ("transaction.state.log.min.isr", "1"),
    ("share.coordinator.state.topic.replication.factor", "1"),
    ("share.coordinator.state.topic.min.isr", "1"),
    // Fifty partitions for the offsets of a handful of groups only make the first join slow.
    ("offsets.topic.num.partitions", "4"),
    ("group.initial.rebalance.delay.ms", "0"),
    // Tests of killed consumers need not wait the usual six seconds at least.
    ("group.min.session.timeout.ms", "500"),
    // 128 MiB by default, a quarter of the small heap.
    ("log.cleaner.dedupe.buffer.size", "8388608"),
];

/// A broker; dropping it stops it if [`start`](Self::start) started it.
#[derive(Debug)]
pub struct Kafka {
    address: String,
    source: &'static str,
    /// How it was started, where that was a process of this machine.
    launch: Option<Launch>,
    // Dropped in this order: the data goes after the process that writes it.
    process: Option<Guarded>,
    _data: Option<TempDir>,
}

/// All there is to say to start the broker again on the same data.
#[derive(Debug)]
struct Launch {
    java: PathBuf,
    libraries: PathBuf,
    settings: PathBuf,
    /// The address that is never advertised to clients of the other one.
    direct: String,
}

impl Launch {
    fn spawn(&self) -> io::Result<Guarded> {
        let directory = self.settings.parent();
        let mut command = Guarded::command(&self.java, Stop { signal: "KILL", directory, container: None });
        run_class(&mut command, &self.libraries, "kafka.Kafka");
        let output = fs::File::options().append(true).create(true).open(self.log())?;
        command.arg(&self.settings).stdout(output.try_clone()?).stderr(output);
        Guarded::spawn(&mut command)
    }

    fn log(&self) -> PathBuf {
        self.settings.with_file_name("broker.log")
    }
}

impl Kafka {
    /// Starts a broker, or takes the one that `SAGA_TEST_KAFKA` names, and waits until it answers.
    ///
    /// # Errors
    ///
    /// [`Missing`] says what is not installed, or why what is installed did not start.
    pub async fn start(progress: Progress<'_>) -> Result<Self, Missing> {
        if let Some(address) = variable(KAFKA_VARIABLE) {
            let mut kafka = Self::at(address);
            let wait = kafka.wait_until_ready(START_LIMIT).await;
            return wait.map(|()| kafka).map_err(|error| failed(format!("{KAFKA_VARIABLE} is set, but {error}")));
        }
        let mut tried = Vec::new();
        if docker::is_running().await {
            progress(&format!("starting {IMAGE} with Docker"));
            match Self::start_container().await {
                Ok(kafka) => return Ok(kafka),
                Err(error) => {
                    progress(&format!("{IMAGE} with Docker: {error}"));
                    tried.push(format!("Docker: {error}"));
                }
            }
        } else {
            tried.push("no Docker engine runs here".to_owned());
        }
        Self::start_here(progress, tried, None).await
    }

    /// Starts a broker on this machine's Java that sends its clients to another port of this machine, where a proxy stands.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub async fn start_behind(port: u16, progress: Progress<'_>) -> Result<Self, Missing> {
        Self::start_here(progress, Vec::new(), Some(port)).await
    }

    async fn start_here(progress: Progress<'_>, mut tried: Vec<String>, proxy: Option<u16>) -> Result<Self, Missing> {
        let java = java().await;
        let fetched = maven::fetched(&folder());
        let can_fetch = fetched.is_some() || maven::is_installed();
        let java = match java {
            Ok(java) if can_fetch => java,
            java => {
                tried.extend(java.err());
                tried.extend((!can_fetch).then(|| "no Maven (mvn) is on PATH".to_owned()));
                return Err(Missing { install: Some(INSTALL.to_owned()), ..failed(tried.join(", ")) });
            }
        };
        let libraries = match fetched {
            Some(libraries) => Ok(libraries),
            None => {
                progress(&format!("fetching Kafka {VERSION} with Maven, which is kept for the next time"));
                maven::fetch(&folder(), &ARTIFACTS).await
            }
        };
        let started = match libraries {
            Ok(libraries) => {
                progress(&format!("starting Kafka {VERSION} on this machine's Java"));
                Self::start_process(&java, &libraries, proxy).await
            }
            Err(error) => Err(error),
        };
        started.map_err(|error| failed(error.to_string()))
    }

    /// A broker that runs already, or is said to.
    pub(super) fn at(address: String) -> Self {
        Self { address, source: KAFKA_VARIABLE, launch: None, process: None, _data: None }
    }

    /// `host:port` to bootstrap from.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// `host:port` to bootstrap from without the proxy, for those who look on.
    #[must_use]
    pub fn direct(&self) -> &str {
        self.launch.as_ref().map_or(&self.address, |launch| &launch.direct)
    }

    /// Whether it is a process of this machine that was started here, so that it can be killed and started again.
    #[must_use]
    pub fn can_crash(&self) -> bool {
        self.launch.is_some()
    }

    /// Kills the broker as `kill -9` does. Its data stays.
    ///
    /// # Errors
    ///
    /// It was not started here.
    pub async fn crash(&mut self) -> io::Result<()> {
        let process = self.process.take().ok_or_else(|| io::Error::other("no process of ours runs Kafka"))?;
        process.crash().await.map(drop)
    }

    /// Starts the broker again on the data that it had, and waits until it answers.
    ///
    /// # Errors
    ///
    /// It was not started here, or does not start again.
    pub async fn start_again(&mut self) -> io::Result<()> {
        let launch = self.launch.as_ref().ok_or_else(|| io::Error::other("Kafka was not started here"))?;
        self.process = Some(launch.spawn()?);
        self.wait_until_ready(START_LIMIT).await
    }

    /// Begins to stop the broker without waiting for it, so that others can stop at the same time.
    pub fn begin_to_stop(&mut self) {
        if let Some(process) = &mut self.process {
            process.begin_to_stop();
        }
    }

    async fn start_process(java: &Path, libraries: &Path, proxy: Option<u16>) -> io::Result<Self> {
        let data = tempfile::Builder::new().prefix("saga-kafka-").tempdir()?;
        let [client, broker, controller] = free_ports()?;
        let settings = data.path().join("server.properties");
        let place = [
            ("listeners", listeners("127.0.0.1", client, broker) + &format!(",CONTROLLER://127.0.0.1:{controller}")),
            ("advertised.listeners", listeners("127.0.0.1", proxy.unwrap_or(client), broker)),
            ("controller.quorum.voters", format!("1@127.0.0.1:{controller}")),
            ("log.dirs", data.path().join("data").display().to_string()),
        ];
        let common = SETTINGS.map(|(key, value)| (key, value.to_owned()));
        let lines: String = common.iter().chain(&place).map(|(key, value)| format!("{key}={value}\n")).collect();
        fs::write(&settings, lines)?;

        // Killed, not asked: its data goes with it, and a controlled shutdown would only take time.
        let stop = Stop { signal: "KILL", directory: Some(data.path()), container: None };
        let mut format = Guarded::command(java, stop);
        run_class(&mut format, libraries, "kafka.tools.StorageTool");
        format.args(["format", "--cluster-id", CLUSTER_ID, "--config"]).arg(&settings);
        let (status, printed) = Guarded::output(&mut format, START_LIMIT).await?;
        if !status.success() {
            return Err(io::Error::other(format!("its storage was not formatted:\n{}", last_lines(&printed, 8))));
        }

        let launch =
            Launch { java: java.into(), libraries: libraries.into(), settings, direct: format!("127.0.0.1:{broker}") };
        let (process, log) = (Some(launch.spawn()?), launch.log());
        let address = format!("127.0.0.1:{client}");
        let mut kafka = Self { address, source: "Maven", launch: Some(launch), process, _data: Some(data) };
        match kafka.wait_until_ready(START_LIMIT).await {
            Ok(()) => Ok(kafka),
            Err(error) => {
                let log = fs::read_to_string(&log).unwrap_or_default();
                let end = last_lines(&log, 12);
                Err(io::Error::other(format!("{error}; the end of its log:\n{end}")))
            }
        }
    }

    async fn start_container() -> io::Result<Self> {
        docker::pull(IMAGE).await?;
        let [client] = free_ports()?;
        // Inside, the broker and the controller also speak to themselves; only the client's port is published.
        let place = [
            ("listeners", listeners("0.0.0.0", 9092, 9094) + ",CONTROLLER://localhost:9093"),
            ("advertised.listeners", format!("CLIENT://127.0.0.1:{client},BROKER://localhost:9094")),
            ("controller.quorum.voters", "1@localhost:9093".to_owned()),
            ("log.dirs", "/tmp/kraft-combined-logs".to_owned()),
        ];
        let common = SETTINGS.map(|(key, value)| (key, value.to_owned()));
        let as_variable =
            |(key, value): &(&str, String)| (format!("KAFKA_{}", key.replace('.', "_").to_uppercase()), value.clone());
        let mut environment: Vec<_> = common.iter().chain(&place).map(as_variable).collect();
        environment.push(("CLUSTER_ID".to_owned(), CLUSTER_ID.to_owned()));
        environment.push(("KAFKA_HEAP_OPTS".to_owned(), "-Xmx512m".to_owned()));
        let name = format!("saga-kafka-{}-{client}", std::process::id());
        let process = Guarded::spawn(&mut docker::run(IMAGE, &name, (client, 9092), &environment))?;
        let address = format!("127.0.0.1:{client}");
        let mut kafka = Self { address, source: "Docker", launch: None, process: Some(process), _data: None };
        kafka.wait_until_ready(START_LIMIT).await?;
        Ok(kafka)
    }

    async fn wait_until_ready(&mut self, limit: Duration) -> io::Result<()> {
        let begin = Instant::now();
        loop {
            if let Ok(Ok(1..)) = timeout(Duration::from_secs(5), brokers_known_to(&self.address)).await {
                return Ok(());
            }
            if let Some(status) = self.process.as_mut().and_then(Guarded::ended) {
                return Err(io::Error::other(format!("Kafka ended while it started ({status})")));
            }
            // A broker that we did not start is there or not.
            if self.process.is_none() || begin.elapsed() > limit {
                return Err(io::Error::other(format!("no Kafka answers at {}", self.address)));
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

impl fmt::Display for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.process {
            Some(_) => write!(f, "Kafka {VERSION} is up at {} ({})", self.address, self.source),
            None => write!(f, "Kafka is up at {} ({})", self.address, self.source),
        }
    }
}

/// Asks for no topic's metadata, and returns how many brokers the answer names. A port that accepts is not enough: a
/// container's port accepts before anything listens inside, and a broker answers before its controller knows it.
async fn brokers_known_to(address: &str) -> io::Result<i32> {
    // Size; key 3 (metadata), version 4; correlation 1; no client id; an array of no topics; create none.
    const REQUEST: [u8; 19] = [0, 0, 0, 15, 0, 3, 0, 4, 0, 0, 0, 1, 255, 255, 0, 0, 0, 0, 0];
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&REQUEST).await?;
    let (_size, _correlation, _throttle) =
        (stream.read_i32().await?, stream.read_i32().await?, stream.read_i32().await?);
    stream.read_i32().await
}

fn listeners(host: &str, client: u16, broker: u16) -> String {
    format!("CLIENT://{host}:{client},BROKER://{host}:{broker}")
}

fn run_class(command: &mut Command, libraries: &Path, class: &str) {
    // Java expands the star itself. Without a logging configuration warnings and errors go to its output.
    let classpath = libraries.join("*");
    command.args(["-Xmx512m", "-Dlog4j2.level=WARN", "-cp"]).arg(classpath).arg(class);
    command.stdout(Stdio::null()).stderr(Stdio::null());
}

fn folder() -> String {
    format!("kafka-{VERSION}")
}

/// The Java to run, or why there is none.
async fn java() -> Result<PathBuf, String> {
    let home = variable("JAVA_HOME").map(|home| Path::new(&home).join("bin/java"));
    let java = home.filter(|java| java.is_file()).or_else(|| on_path("java"));
    let java = java.ok_or_else(|| "no Java is on PATH".to_owned())?;
    let mut command = Guarded::command(&java, Stop::default());
    let answer = Guarded::output(command.arg("-version"), START_LIMIT).await;
    let (_, printed) = answer.map_err(|error| format!("Java: {error}"))?;
    match java_version(&printed) {
        Some(OLDEST_JAVA..) => Ok(java),
        Some(version) => Err(format!("Java {version} is too old, Kafka needs {OLDEST_JAVA}")),
        None => Err(format!("{} does not say its version", java.display())),
    }
}

/// The major version in `openjdk version "17.0.15" 2025-04-15`; 8 and older are called `1.8`.
fn java_version(printed: &str) -> Option<u32> {
    let quoted = printed.split('"').nth(1)?;
    let mut numbers = quoted.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match numbers.next()?.ok()? {
        1 => numbers.next()?.ok(),
        major => Some(major),
    }
}

fn failed(why: String) -> Missing {
    Missing { what: format!("Apache Kafka {VERSION}"), why, install: None }
}

#[cfg(test)]
mod tests {
    use super::java_version;

    #[test]
    fn java_says_its_version_in_two_ways() {
        assert_eq!(java_version("openjdk version \"17.0.15\" 2025-04-15\nOpenJDK ..."), Some(17));
        assert_eq!(java_version("openjdk version \"25\" 2025-09-16"), Some(25));
        assert_eq!(java_version("java version \"1.8.0_392\""), Some(8));
        assert_eq!(java_version("Error: could not find it"), None);
    }
}
