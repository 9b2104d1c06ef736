//! A threaded TCP server: one thread accepts, one thread serves each connection, and dropping it ends them all.

use std::collections::BTreeMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::lock::lock;

/// Serves connections until dropped. The drop stops reading from each connection, lets its handler finish the reply
/// it is writing, and joins all threads; a handler that waits for anything but its connection must be woken first.
pub(crate) struct Server {
    address: SocketAddr,
    /// The acceptor's, to wake it.
    listener: TcpListener,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    closing: AtomicBool,
    connections: Mutex<BTreeMap<u64, TcpStream>>,
}

impl Server {
    /// Serves at most `limit` connections at once, each by a call of `handler` on its own thread.
    pub(crate) fn start<H>(listener: TcpListener, limit: usize, handler: H) -> io::Result<Self>
    where
        H: Fn(TcpStream) + Send + Sync + 'static,
    {
        let address = listener.local_addr()?;
        let wakes = listener.try_clone()?;
        let shared = Arc::new(Shared::default());
        let acceptor = thread::Builder::new().name("accept".into()).spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, limit, &shared, &handler)
        })?;
        Ok(Self {
            address,
            listener: wakes,
            shared,
            acceptor: Some(acceptor),
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        for connection in lock(&self.shared.connections).values() {
            let _ = connection.shutdown(Shutdown::Read);
        }
        // `accept` has no time-out. A connection of our own could wake it, but not where a host has no address that
        // reaches itself, such as one that binds IPv6 and has it switched off.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept<H>(listener: &TcpListener, limit: usize, shared: &Shared, handler: &H)
where
    H: Fn(TcpStream) + Send + Sync,
{
    thread::scope(|scope| {
        for id in 0.. {
            let accepted = listener.accept();
            if shared.closing.load(Ordering::SeqCst) {
                return;
            }
            let Ok((stream, _)) = accepted else {
                // Out of descriptors, most likely: others must close first.
                thread::sleep(Duration::from_millis(10));
                continue;
            };
            if !shared.register(id, &stream, limit) {
                continue;
            }
            let served =
                thread::Builder::new()
                    .name("serve".into())
                    .spawn_scoped(scope, move || {
                        handler(stream);
                        lock(&shared.connections).remove(&id);
                    });
            if served.is_err() {
                lock(&shared.connections).remove(&id);
            }
        }
    });
}

impl Shared {
    /// Notes a connection so that closing can reach it; false when it must not be served.
    fn register(&self, id: u64, stream: &TcpStream, limit: usize) -> bool {
        let Ok(handle) = stream.try_clone() else {
            return false;
        };
        let mut connections = lock(&self.connections);
        // The flag is set before the closing side takes this lock, so no connection slips past it.
        let admitted = connections.len() < limit && !self.closing.load(Ordering::SeqCst);
        if admitted {
            connections.insert(id, handle);
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn dropping_the_server_ends_idle_connections_and_finishes_replies() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server::start(listener, 8, |mut stream| {
            let mut byte = [0];
            while let Ok(1) = stream.read(&mut byte) {
                thread::sleep(Duration::from_millis(50));
                stream.write_all(&byte).unwrap();
            }
        })
        .unwrap();
        let mut busy = TcpStream::connect(server.address()).unwrap();
        let mut idle = TcpStream::connect(server.address()).unwrap();
        busy.write_all(b"x").unwrap();
        thread::sleep(Duration::from_millis(20));
        drop(server);
        let mut reply = Vec::new();
        busy.read_to_end(&mut reply).unwrap();
        assert_eq!(reply, b"x");
        assert_eq!(idle.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn connections_over_the_limit_are_closed_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server::start(listener, 1, |mut stream| {
            let _ = stream.write_all(b"hello");
            let _ = stream.read(&mut [0]);
        })
        .unwrap();
        let mut first = TcpStream::connect(server.address()).unwrap();
        first.read_exact(&mut [0; 5]).unwrap();
        let mut second = TcpStream::connect(server.address()).unwrap();
        assert_eq!(second.read(&mut [0]).unwrap_or(0), 0);
    }
}
