//! What a server is told before it starts.

use std::{net::SocketAddr, time::Duration};

use crate::{Auth, Public};

/// Where to listen, whom to let in, and how much at once.
#[derive(Debug, Clone)]
pub struct Config {
    /// Every address gets a listener of its own.
    pub listen: Vec<SocketAddr>,
    pub auth: Auth,
    /// Under which addresses clients know it.
    pub public: Public,
    /// Largest JSON body in bytes. Files are streamed and have no limit but the sandbox's disk.
    pub body_limit: usize,
    /// A connection must deliver the head of each request within this time.
    pub head_within: Duration,
    /// A body must deliver something within this time, again and again.
    pub body_stall: Duration,
    /// Connections at one time. For more, those that have been idle for longest give way; while none is idle, more wait.
    pub connections: usize,
    /// How long requests in flight may take to finish when the server is asked to stop.
    pub drain: Duration,
}

impl Config {
    /// The defaults for these addresses.
    #[must_use]
    pub fn new(listen: Vec<SocketAddr>, auth: Auth) -> Self {
        Self {
            listen,
            auth,
            public: Public::default(),
            body_limit: 32 << 20,
            head_within: Duration::from_secs(30),
            body_stall: Duration::from_secs(60),
            connections: 8192,
            drain: Duration::from_secs(5),
        }
    }
}
