//! One connection for all locks, made anew when it breaks.

use std::{
    fmt, io,
    sync::{
        Mutex as ReasonMutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use caisson_outgoing::Names;
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, RedisError, ServerErrorKind, aio::MultiplexedConnection};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{Mutex, OnceCell},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::url::RedisUrl;

pub(super) struct Connection {
    url: RedisUrl,
    /// A request is answered within this time, or it has failed.
    within: Duration,
    open: Mutex<Option<Open>>,
    opened: AtomicU64,
    names: Names,
    tls: OnceCell<TlsConnector>,
    /// Why the last request has failed, if it has: only changes are logged.
    failing: ReasonMutex<Option<String>>,
}

#[derive(Clone)]
struct Open {
    number: u64,
    connection: MultiplexedConnection,
}

/// Why a connection has no answer.
struct Why {
    /// What follows "Redis at …".
    words: String,
    passes: bool,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) reason: String,
    /// Whether Redis may have done what was asked.
    pub(super) perhaps_done: bool,
    /// Whether it may answer later.
    pub(super) passes: bool,
}

impl Connection {
    pub(super) fn new(url: RedisUrl, within: Duration) -> Self {
        Self {
            url,
            within,
            open: Mutex::default(),
            opened: AtomicU64::default(),
            names: Names::default(),
            tls: OnceCell::default(),
            failing: ReasonMutex::default(),
        }
    }

    /// What Redis answers. The command is given to it twice where the connection breaks in between.
    pub(super) async fn ask(&self, command: &Cmd) -> Result<u64, Failed> {
        let perhaps_done = AtomicBool::new(false);
        let answer = match timeout(self.within, self.try_twice(command, &perhaps_done)).await {
            Ok(answer) => answer,
            Err(_) => {
                // Whatever hangs there: the next one tries another connection. If it is locked, somebody makes one.
                if let Ok(mut open) = self.open.try_lock() {
                    *open = None;
                }
                let words =
                    format!("did not answer within {} s; see whether it hangs, or correct CAISSON_REDIS_URL", self.within.as_secs_f32());
                Err(Why { words, passes: true })
            }
        };
        let answer = answer.map_err(|Why { words, passes }| Failed {
            reason: format!("Redis at {} {words}", self.url),
            perhaps_done: perhaps_done.into_inner(),
            passes,
        });
        self.log(&answer);
        answer
    }

    /// Why there is no answer for now, as far as is known without asking.
    pub(super) fn failing(&self) -> Option<String> {
        self.reason().clone()
    }

    fn reason(&self) -> MutexGuard<'_, Option<String>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn try_twice(&self, command: &Cmd, perhaps_done: &AtomicBool) -> Result<u64, Why> {
        let mut again = true;
        loop {
            let mut open = self.open().await?;
            let before = perhaps_done.swap(true, Ordering::Relaxed);
            let error = match command.query_async(&mut open.connection).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let broken = is_broken(&error);
            if broken || is_not_here(&error) {
                self.forget(open.number).await;
            }
            if broken && std::mem::take(&mut again) {
                continue;
            }
            perhaps_done.store(before || !is_not_now(&error), Ordering::Relaxed);
            return Err(Why { words: words(&error), passes: !is_for_good(&error) });
        }
    }

    async fn open(&self) -> Result<Open, Why> {
        let mut open = self.open.lock().await;
        if let Some(open) = &*open {
            return Ok(open.clone());
        }
        let connection = self.connect().await?;
        let new = Open { number: self.opened.fetch_add(1, Ordering::Relaxed), connection };
        *open = Some(new.clone());
        Ok(new)
    }

    /// Unless there is another one already.
    async fn forget(&self, number: u64) {
        let mut open = self.open.lock().await;
        if open.as_ref().is_some_and(|open| open.number == number) {
            *open = None;
        }
    }

    async fn connect(&self) -> Result<MultiplexedConnection, Why> {
        let stream = self.stream().await.map_err(|cause| Why { words: unreachable(&cause), passes: true })?;
        let Some(name) = &self.url.tls else { return self.log_in(stream).await };
        let connector = self.tls.get_or_init(async || {
            let config = caisson_outgoing::tls("Redis over TLS cannot be used").await;
            TlsConnector::from(std::sync::Arc::new(config))
        });
        let connecting = connector.await.connect(name.clone(), stream);
        // A server without TLS may wait for more.
        let connected = timeout(self.within / 2, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let stream = connected.map_err(|cause| Why {
            words: format!(
                "cannot be spoken to over TLS: {cause}; see that its certificate is for this host and trusted here, or correct CAISSON_REDIS_URL"
            ),
            passes: true,
        })?;
        self.log_in(stream).await
    }

    async fn stream(&self) -> io::Result<TcpStream> {
        let addresses = self.names.clone().look_up(self.url.host.clone()).await.map_err(io::Error::other)?;
        let mut failure = io::Error::other("its host has no address");
        // One that does not answer leaves time for the others.
        let each = self.within / u32::try_from(addresses.len() + 1).unwrap_or(u32::MAX);
        for mut address in addresses {
            address.set_port(self.url.port);
            match timeout(each, TcpStream::connect(address)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn log_in<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(&self, stream: S) -> Result<MultiplexedConnection, Why> {
        // Whoever asks looks at the clock.
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let opened = MultiplexedConnection::new_with_config(&self.url.login(), stream, config).await;
        let (connection, driver) = opened.map_err(|error| Why { words: words(&error), passes: !is_for_good(&error) })?;
        // Ends with the last handle of the connection.
        tokio::spawn(driver);
        Ok(connection)
    }

    fn log(&self, answer: &Result<u64, Failed>) {
        let now = answer.as_ref().err().map(|failed| failed.reason.clone());
        let before = std::mem::replace(&mut *self.reason(), now);
        match answer {
            Ok(_) if before.is_some() => tracing::info!("Redis at {} answers again", self.url),
            Err(failed) if before.is_none() => tracing::warn!("No locks for now: {}", failed.reason),
            _ => {}
        }
    }
}

/// What follows "Redis at …".
fn words(error: &RedisError) -> String {
    let code = error.code().unwrap_or_default();
    if is_not_let_in(error) {
        return "does not let us in; correct user and password in CAISSON_REDIS_URL".to_owned();
    }
    if is_broken(error) {
        return unreachable(error);
    }
    let said = error.detail().map_or_else(|| error.to_string(), |detail| format!("{code} {detail}"));
    // Of somebody else: bounded, and in one line.
    let said: String = said.trim().chars().filter(|c| !c.is_control()).take(300).collect();
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::NoPerm) => {
            format!(
                "does not let this user do all that locks need ({said}); give it the commands EVAL, SET, GET, INCR, PEXPIRE, DEL and TIME"
            )
        }
        ErrorKind::Server(ServerErrorKind::CrossSlot | ServerErrorKind::Moved) => {
            format!("is a cluster ({said}), which locks cannot be in; name a single server in CAISSON_REDIS_URL")
        }
        _ => format!("refuses what it is asked: {said}"),
    }
}

fn unreachable(cause: &impl fmt::Display) -> String {
    format!("cannot be reached: {cause}; start it, or correct CAISSON_REDIS_URL")
}

/// Whether it is the connection that has failed.
fn is_broken(error: &RedisError) -> bool {
    error.is_io_error() || error.is_connection_dropped() || matches!(error.kind(), ErrorKind::Parse)
}

/// Whether Redis has refused for now, without doing anything.
fn is_not_now(error: &RedisError) -> bool {
    is_not_here(error) || ["BUSY", "MISCONF", "NOREPLICAS", "OOM", "TRYAGAIN"].contains(&code(error))
}

/// Whether this server has refused, and another one may be in its place by now: that takes a new connection.
fn is_not_here(error: &RedisError) -> bool {
    ["CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY"].contains(&code(error))
}

/// Whether it will say the same again. A key of another type is nobody's lock.
fn is_for_good(error: &RedisError) -> bool {
    is_not_let_in(error) || ["NOPERM", "WRONGTYPE"].contains(&code(error))
}

/// Whether user or password are wrong.
fn is_not_let_in(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed || ["NOAUTH", "WRONGPASS"].contains(&code(error))
}

/// The word that Redis refuses with. What a script was refused with is inside an `ERR` up to Redis 6.
fn code(error: &RedisError) -> &str {
    let code = error.code().unwrap_or_default();
    let inside = error.detail().filter(|_| code == "ERR").and_then(|said| said.rsplit_once(": -"));
    inside.and_then(|(_, inside)| inside.split_whitespace().next()).unwrap_or(code)
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("url", &self.url).field("within", &self.within).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use redis::{Value, parse_redis_value};

    use super::*;

    fn error(said: &str) -> RedisError {
        match parse_redis_value(format!("-{said}\r\n").as_bytes()) {
            Ok(Value::ServerError(error)) => error.into(),
            other => panic!("{said}: {other:?}"),
        }
    }

    #[test]
    fn what_passes_is_told_from_what_does_not() {
        let in_a_script = "ERR Error running script (call to f_6b1bf486): @user_script:2: @user_script: 2: -";
        for (said, elsewhere, now, for_good) in [
            ("READONLY You can't write against a read only replica.", true, true, false),
            (&format!("{in_a_script}READONLY You can't write against a read only replica."), true, true, false),
            (&format!("{in_a_script}OOM command not allowed when used memory > 'maxmemory'."), false, true, false),
            ("MASTERDOWN Link with MASTER is down", true, true, false),
            ("LOADING Redis is loading the dataset in memory", true, true, false),
            ("CLUSTERDOWN The cluster is down", true, true, false),
            ("BUSY Redis is busy running a script.", false, true, false),
            ("MISCONF Redis is configured to save RDB snapshots", false, true, false),
            ("NOREPLICAS Not enough good replicas to write.", false, true, false),
            ("ERR value is not an integer or out of range", false, false, false),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", false, false, true),
            ("NOPERM this user has no permissions to run the 'eval' command", false, false, true),
            ("NOAUTH Authentication required.", false, false, true),
        ] {
            let error = error(said);
            assert_eq!((is_not_here(&error), is_not_now(&error), is_for_good(&error)), (elsewhere, now, for_good), "{said}");
        }
    }
}
