//! A line to a server that can be cut.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

/// Passes connections on to a server. Dropping it cuts them all.
#[derive(Debug)]
pub struct Proxy {
    pub address: SocketAddr,
    open: Arc<Mutex<Vec<TcpStream>>>,
    closing: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Begins to listen.
    #[must_use]
    pub fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
        let address = listener.local_addr().expect("a listener has an address");
        let (open, closing): (Arc<Mutex<Vec<TcpStream>>>, Arc<AtomicBool>) = Default::default();
        let (lines, closed) = (Arc::clone(&open), Arc::clone(&closing));
        let accepting = thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                if closed.load(Ordering::Acquire) {
                    return;
                }
                let Ok(server) = TcpStream::connect(server) else { continue };
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone().expect("it can be shared"), to.try_clone().expect("it can be shared"));
                    thread::spawn(move || pass(from, to));
                }
                lines.extend([client, server]);
            }
        });
        Self { address, open, closing, accepting: Some(accepting) }
    }

    /// Cuts every line there is; new ones can be opened.
    pub fn cut(&self) {
        for line in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // One that has ended is cut already.
            drop(line.shutdown(Shutdown::Both));
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        // Wakes it.
        drop(TcpStream::connect(self.address));
        if let Some(accepting) = self.accepting.take() {
            drop(accepting.join());
        }
        self.cut();
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Both));
}
