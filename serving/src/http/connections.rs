//! Connections: accepted up to a limit, and none held by a caller who does nothing.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::HttpSettings;
use super::write_timeout::WriteTimeout;

/// Bytes of a request's head at most, and of a piece of its body.
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// Connections beyond the limit that are told so at a time; more are closed without a word.
const REFUSALS_MAX: usize = 64;
/// How long a refused caller may take to read why.
const REFUSAL_MAX: Duration = Duration::from_secs(1);
/// The wait after the system could not give another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// All connections of a server.
pub(super) struct Connections {
    router: Router,
    settings: HttpSettings,
    places: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    open: JoinSet<()>,
    stopping: watch::Sender<()>,
}

impl Connections {
    pub(super) fn new(router: Router, settings: HttpSettings) -> Self {
        Self {
            router,
            places: Arc::new(Semaphore::new(settings.connections_max)),
            refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
            settings,
            open: JoinSet::new(),
            stopping: watch::Sender::new(()),
        }
    }

    /// Accepts until `stop`, then lets requests under way end within the grace.
    pub(super) async fn serve(mut self, listener: TcpListener, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                // Those that ended make room in the set.
                Some(_) = self.open.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => self.open(stream),
                    Err(error) => pause_after(&error).await,
                },
            }
        }
        drop(listener);
        self.stopping.send_replace(());
        let grace = self.settings.grace;
        let ended = async { while self.open.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, ended).await.is_err() {
            tracing::warn!(?grace, "closing the connections that are still open");
        }
    }

    fn open(&mut self, stream: TcpStream) {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            let connection = self.connection(stream);
            self.open.spawn(async move {
                connection.await;
                drop(place);
            });
        } else if let Ok(place) = Arc::clone(&self.refusals).try_acquire_owned() {
            let limit = self.settings.connections_max;
            self.open.spawn(async move {
                // A caller that does not listen need not be told.
                let _ = tokio::time::timeout(REFUSAL_MAX, refuse(stream, limit)).await;
                drop(place);
            });
        }
    }

    fn connection(&self, stream: TcpStream) -> impl Future<Output = ()> + use<> {
        // An answer must not wait for the acknowledgement of the packet before it.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let stream = WriteTimeout::new(stream, self.settings.write_max);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.settings.head_max)
            .max_buf_size(BUFFER_BYTES_MAX)
            .serve_connection(
                TokioIo::new(stream),
                TowerToHyperService::new(self.router.clone()),
            );
        let mut stopping = self.stopping.subscribe();
        async move {
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                _ = stopping.changed() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection broke");
            }
        }
    }
}

async fn pause_after(error: &io::Error) {
    let of_one_caller = matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused
    );
    if !of_one_caller {
        tracing::error!(%error, "cannot accept a connection; is the limit of open files reached?");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

/// Answers a connection beyond the limit, without looking at what it asks.
async fn refuse(mut stream: TcpStream, limit: usize) -> io::Result<()> {
    let message = format!("the server has all of its {limit} connections; try again in a moment");
    let body = serde_json::json!({ "error": message }).to_string();
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
         retry-after: 1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await?;
    stream.shutdown().await?;
    // To close before the request was read would reset the connection, and lose the answer.
    let mut request = [0; 4096];
    while stream.read(&mut request).await? > 0 {}
    Ok(())
}
