//! Paths, status codes, and a clean stop.

mod body;
mod error;
mod routes;

use std::future::{Future, IntoFuture};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::repository::Repository;

/// The bounds of one request and of the stop.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// Rows of one request at most.
    pub request_rows_max: usize,
    /// Bytes of one request at most.
    pub request_bytes_max: usize,
    /// How long a request's body may take to arrive.
    pub body_max: Duration,
    /// How long a stop waits for connections before it closes them.
    pub grace: Duration,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            request_rows_max: 16_384,
            request_bytes_max: 32 << 20,
            body_max: Duration::from_secs(30),
            grace: Duration::from_secs(10),
        }
    }
}

/// What every request sees.
pub struct Server {
    repository: Repository,
    queue: Queue,
    metrics: Arc<Metrics>,
    settings: HttpSettings,
    stopping: AtomicBool,
}

impl Server {
    /// A server that is ready.
    pub fn new(
        repository: Repository,
        queue: Queue,
        metrics: Arc<Metrics>,
        settings: HttpSettings,
    ) -> Self {
        Self {
            repository,
            queue,
            metrics,
            settings,
            stopping: AtomicBool::new(false),
        }
    }

    /// The model.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    fn is_ready(&self) -> bool {
        !self.stopping.load(Ordering::Relaxed)
    }

    fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/v2", get(routes::server))
            .route("/v2/health/live", get(routes::live))
            .route("/v2/health/ready", get(routes::ready))
            .route("/v2/models/{model}", get(routes::model))
            .route("/v2/models/{model}/ready", get(routes::model_ready))
            .route("/v2/models/{model}/infer", post(routes::infer))
            .route(
                "/v2/models/{model}/versions/{version}",
                get(routes::version),
            )
            .route(
                "/v2/models/{model}/versions/{version}/ready",
                get(routes::version_ready),
            )
            .route(
                "/v2/models/{model}/versions/{version}/infer",
                post(routes::version_infer),
            )
            .route("/v2/repository/models/{model}/load", post(routes::load))
            .route("/metrics", get(routes::metrics))
            .fallback(routes::unknown_path)
            .method_not_allowed_fallback(routes::wrong_method)
            .layer(DefaultBodyLimit::max(self.settings.request_bytes_max))
            .with_state(Arc::clone(self))
    }

    /// Serves until `stop`; then refuses new connections, answers the requests under way, and
    /// returns. Connections that are still open after the grace are closed.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        let server = Arc::clone(&self);
        let (stopping, began) = oneshot::channel();
        let stop = async move {
            stop.await;
            server.stopping.store(true, Ordering::Relaxed);
            // Nobody listens any more if the listener failed first.
            let _ = stopping.send(());
        };
        // An answer must not wait for the acknowledgement of the packet before it.
        let listener = listener.tap_io(|stream| {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "cannot set TCP_NODELAY");
            }
        });
        let serving = axum::serve(listener, self.router()).with_graceful_shutdown(stop);
        let grace = self.settings.grace;
        let overdue = async {
            match began.await {
                Ok(()) => tokio::time::sleep(grace).await,
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            served = serving.into_future() => served?,
            () = overdue => tracing::warn!(?grace, "closing the connections that are still open"),
        }
        self.queue.stop();
        Ok(())
    }
}
