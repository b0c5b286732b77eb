//! Being a process: signals, an exit code, HTTP until told to stop.
//!
//! The invariant: what was begun has a bounded time to end, and a second signal ends it at once.

use std::{
    future::Future,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use axum::Router;
use tokio::{net::TcpListener, time::Instant};
use tokio_util::sync::CancellationToken;

/// Longer than `/ready` takes to find out that the database does not answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(4);

/// Serves until `stop`; answers what was asked before.
pub async fn serve(listener: TcpListener, routes: Router, stop: CancellationToken) -> anyhow::Result<()> {
    let _ends = stop.clone().drop_guard();
    axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await.context("HTTP stopped")
}

/// Asks `/ready` of the service at `http`.
pub async fn probe(http: SocketAddr) -> anyhow::Result<()> {
    // Serving on every address is no address to call.
    let host = match http.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let client = reqwest::Client::builder().timeout(PROBE_TIMEOUT).no_proxy().build()?;
    let answer = client.get(format!("http://{}/ready", SocketAddr::new(host, http.port()))).send().await?;
    let status = answer.status();
    ensure!(status.is_success(), "not ready ({status}): {}", answer.text().await.unwrap_or_default());
    Ok(())
}

/// What the operating system says: SIGTERM or SIGINT.
#[derive(Debug)]
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    /// From now on signals are heard here, and no longer end the process.
    pub fn listen() -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Runs `work` until it ends or a signal comes; then it has `grace` to end. A second signal exits at once.
pub async fn until_told<F: Future<Output = anyhow::Result<()>>>(
    signals: &mut Signals,
    grace: Duration,
    work: impl FnOnce(CancellationToken) -> F,
) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let mut work = std::pin::pin!(work(stop.clone()));
    let deadline = async {
        tokio::select! {
            () = stop.cancelled() => {}
            () = signals.next() => stop.cancel(),
        }
        tokio::select! {
            () = tokio::time::sleep_until(Instant::now() + grace) => {}
            () = signals.next() => std::process::exit(130),
        }
    };
    tokio::select! {
        done = &mut work => done,
        () = deadline => bail!("it did not stop within {grace:?}: what was not finished is taken up at the next start"),
    }
}

/// Runs `main` and turns its end into an exit code, printing why it failed.
pub fn exit(name: &str, main: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let done = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let done = runtime.block_on(main);
            // Whatever is left is abandoned: a blocked thread must not keep the process.
            runtime.shutdown_background();
            done
        }
        Err(error) => Err(error.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stop_that_takes_too_long_is_an_error() {
        let mut signals = Signals::listen().unwrap();
        let stopped = until_told(&mut signals, Duration::from_millis(10), |stop| async move {
            stop.cancel();
            std::future::pending().await
        });
        assert!(stopped.await.unwrap_err().to_string().contains("did not stop"));
    }
}
