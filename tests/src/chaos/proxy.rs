//! A TCP proxy that cuts: between services and PostgreSQL, and between services and Kafka.
//!
//! The invariant: it changes no byte. It only ends connections, or holds bytes back, and knows just enough of the two protocols
//! to do so at the worst moment: at a COMMIT, and at a produce request.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// Which protocol passes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// The request of interest is COMMIT.
    Postgres,
    /// The request of interest is produce.
    Kafka,
}

/// When to cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// Every connection, now.
    Now,
    /// The connection of the next request of interest, which never arrives.
    BeforeRequest,
    /// The connection of the next request of interest, which is answered, but nobody hears the answer.
    BeforeAnswer,
}

/// A proxy; dropping it ends its connections.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    _accepting: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    dialect: Dialect,
    upstream: SocketAddr,
    /// Connections of an earlier generation are cut.
    generation: watch::Sender<u64>,
    stalled: watch::Sender<bool>,
    armed: Mutex<VecDeque<Moment>>,
    sprung: AtomicU64,
}

impl Proxy {
    /// Listens, and passes everything on to `upstream`, whether or not that is there.
    pub fn start(listener: TcpListener, upstream: SocketAddr, dialect: Dialect) -> Self {
        let (generation, stalled) = (watch::Sender::new(0), watch::Sender::new(false));
        let (armed, sprung) = (Mutex::default(), AtomicU64::new(0));
        let shared = Arc::new(Shared { dialect, upstream, generation, stalled, armed, sprung });
        let mut accepting = JoinSet::new();
        let proxy = shared.clone();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => if let Ok((client, _)) = accepted {
                        let shared = proxy.clone();
                        // Its end is the end of the connection, which both sides see.
                        connections.spawn(async move { drop(shared.connection(client).await) });
                    },
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Self { shared, _accepting: accepting }
    }

    /// Cuts, now or at the next request of interest.
    pub fn cut(&self, moment: Moment) {
        if moment == Moment::Now {
            self.shared.generation.send_modify(|generation| *generation += 1);
        } else {
            self.shared.armed.lock().unwrap_or_else(PoisonError::into_inner).push_back(moment);
        }
    }

    /// Holds every byte back until told otherwise: nobody is cut off, and nobody is answered.
    pub fn stall(&self, stalled: bool) {
        self.shared.stalled.send_replace(stalled);
    }

    /// No more cuts, and nothing is held back.
    pub fn mend(&self) {
        self.shared.armed.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.stall(false);
    }

    /// How many connections were cut at a request of interest.
    pub fn sprung(&self) -> u64 {
        self.shared.sprung.load(Ordering::Relaxed)
    }
}

impl Shared {
    async fn connection(&self, client: TcpStream) -> io::Result<()> {
        let mut generation = self.generation.subscribe();
        let server = TcpStream::connect(self.upstream).await?;
        // While nobody listens there, a connection to a port may meet itself.
        if server.local_addr()? == server.peer_addr()? {
            return Ok(());
        }
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
            (client.into_split(), server.into_split());
        let unheard = AtomicBool::new(false);
        let requests = async {
            let (mut bytes, mut scan) = (vec![0; 64 * 1024], Scan::of(self.dialect));
            while let Some(count) = self.read(&mut from_client, &mut bytes).await? {
                if scan.sees(&bytes[..count]) {
                    let armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    if let Some(moment) = armed {
                        self.sprung.fetch_add(1, Ordering::Relaxed);
                        match moment {
                            Moment::BeforeAnswer => unheard.store(true, Ordering::Relaxed),
                            Moment::Now | Moment::BeforeRequest => return Ok(()),
                        }
                    }
                }
                to_server.write_all(&bytes[..count]).await?;
            }
            io::Result::Ok(())
        };
        let answers = async {
            let mut bytes = vec![0; 64 * 1024];
            while let Some(count) = self.read(&mut from_server, &mut bytes).await? {
                if unheard.load(Ordering::Relaxed) {
                    return Ok(());
                }
                to_client.write_all(&bytes[..count]).await?;
            }
            io::Result::Ok(())
        };
        tokio::select! {
            done = requests => done,
            done = answers => done,
            _ = generation.changed() => Ok(()),
        }
    }

    async fn read(&self, from: &mut (impl AsyncRead + Unpin), bytes: &mut [u8]) -> io::Result<Option<usize>> {
        let count = from.read(bytes).await?;
        // It cannot fail: the sender lives as long as we do.
        let _ = self.stalled.subscribe().wait_for(|stalled| !stalled).await;
        Ok((count > 0).then_some(count))
    }
}

/// Looks for the request of interest in what a client sends.
#[derive(Debug)]
enum Scan {
    Postgres,
    /// The bytes of the frame that are still to come, and the first six of it as far as they are here.
    Kafka {
        rest: usize,
        head: Vec<u8>,
    },
}

impl Scan {
    fn of(dialect: Dialect) -> Self {
        match dialect {
            Dialect::Postgres => Self::Postgres,
            Dialect::Kafka => Self::Kafka { rest: 0, head: Vec::new() },
        }
    }

    /// Whether a request of interest is, or begins, in these bytes.
    fn sees(&mut self, mut bytes: &[u8]) -> bool {
        const COMMIT: &[u8] = b"COMMIT\0";
        const PRODUCE: [u8; 2] = [0, 0];
        match self {
            Self::Postgres => bytes.windows(COMMIT.len()).any(|window| window == COMMIT),
            Self::Kafka { rest, head } => {
                let mut seen = false;
                while !bytes.is_empty() {
                    if *rest > 0 {
                        let skipped = bytes.len().min(*rest);
                        *rest -= skipped;
                        bytes = &bytes[skipped..];
                        continue;
                    }
                    // The size of what follows it, and which request it is.
                    head.push(bytes[0]);
                    bytes = &bytes[1..];
                    if let [a, b, c, d, key @ ..] = head.as_slice()
                        && key.len() == PRODUCE.len()
                    {
                        seen |= key == PRODUCE;
                        *rest = (u32::from_be_bytes([*a, *b, *c, *d]) as usize).saturating_sub(PRODUCE.len());
                        head.clear();
                    }
                }
                seen
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers each chunk with itself, behind a proxy.
    async fn echo(dialect: Dialect) -> (Proxy, SocketAddr, JoinSet<()>, watch::Receiver<usize>) {
        let (heard, hears) = watch::channel(0);
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = server.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut bytes = [0; 256];
            while let Ok((mut stream, _)) = server.accept().await {
                while let Ok(count @ 1..) = stream.read(&mut bytes).await {
                    heard.send_modify(|heard| *heard += count);
                    if stream.write_all(&bytes[..count]).await.is_err() {
                        break;
                    }
                }
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        (Proxy::start(listener, upstream, dialect), at, serving, hears)
    }

    async fn say(stream: &mut TcpStream, what: &[u8]) -> usize {
        stream.write_all(what).await.unwrap();
        stream.read(&mut [0; 256]).await.unwrap_or(0)
    }

    #[tokio::test]
    async fn what_passes_is_untouched_and_a_cut_ends_it() {
        let (proxy, at, _serving, _) = echo(Dialect::Postgres).await;
        let mut stream = TcpStream::connect(at).await.unwrap();
        assert_eq!(say(&mut stream, b"BEGIN\0").await, 6);
        proxy.cut(Moment::Now);
        assert_eq!(stream.read(&mut [0; 9]).await.unwrap_or(0), 0);
        let mut next = TcpStream::connect(at).await.unwrap();
        assert_eq!(say(&mut next, b"COMMIT\0").await, 7);
    }

    #[tokio::test]
    async fn a_commit_is_cut_before_it_arrives_or_before_it_is_answered() {
        let (proxy, at, _serving, mut heard) = echo(Dialect::Postgres).await;
        proxy.cut(Moment::BeforeRequest);
        let mut stream = TcpStream::connect(at).await.unwrap();
        assert_eq!(say(&mut stream, b"BEGIN\0").await, 6);
        assert_eq!(say(&mut stream, b"Q\0\0\0\x0bCOMMIT\0").await, 0);
        assert_eq!((*heard.borrow(), proxy.sprung()), (6, 1));

        proxy.cut(Moment::BeforeAnswer);
        let mut stream = TcpStream::connect(at).await.unwrap();
        assert_eq!(say(&mut stream, b"COMMIT\0").await, 0);
        heard.wait_for(|heard| *heard == 13).await.unwrap();
        assert_eq!(proxy.sprung(), 2);
    }

    #[tokio::test]
    async fn what_is_held_back_arrives_later() {
        let (proxy, at, _serving, heard) = echo(Dialect::Kafka).await;
        let mut stream = TcpStream::connect(at).await.unwrap();
        proxy.stall(true);
        stream.write_all(b"later").await.unwrap();
        tokio::task::yield_now().await;
        assert_eq!(*heard.borrow(), 0);
        proxy.mend();
        assert_eq!(stream.read(&mut [0; 9]).await.unwrap(), 5);
    }

    #[test]
    fn a_produce_request_is_told_from_others_however_the_bytes_are_split() {
        let frame = |key: u8, body: &[u8]| {
            let size = u32::try_from(body.len() + 2).unwrap().to_be_bytes();
            [&size[..], &[0, key], body].concat()
        };
        let stream = [frame(3, &[0, 0, 0, 6, 0, 0]), frame(0, b"produce"), frame(1, &[0; 9])].concat();
        let begins_at = frame(3, &[0; 6]).len();
        for chunk in 1..stream.len() {
            let mut scan = Scan::of(Dialect::Kafka);
            let seen: Vec<bool> = stream.chunks(chunk).map(|bytes| scan.sees(bytes)).collect();
            let expected = (begins_at + 5) / chunk; // where the request's key ends
            assert_eq!(seen.iter().filter(|seen| **seen).count(), 1, "chunks of {chunk}");
            assert!(seen[expected], "chunks of {chunk}: {seen:?}");
        }
    }
}
