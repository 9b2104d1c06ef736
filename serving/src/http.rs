//! Paths, status codes, and a clean stop.

mod body;
mod connections;
mod error;
mod logged;
mod routes;
mod site;
mod write_timeout;

pub use site::{Site, SiteAnswer, SiteRequest, serve_site};

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use tokio::net::TcpListener;

use self::body::BytesInFlight;
use self::connections::Connections;
use crate::metrics::Metrics;
use crate::prediction_log::PredictionLog;
use crate::queue::Queue;
use crate::repository::Repository;

/// The bounds of requests, of connections and of the stop.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// Rows of one request at most.
    pub request_rows_max: usize,
    /// Bytes of one request at most.
    pub request_bytes_max: usize,
    /// Bytes of all requests under way at most.
    pub bytes_in_flight_max: usize,
    /// Connections at most.
    pub connections_max: usize,
    /// How long a request's head may take to arrive, and how long a connection may idle.
    pub head_max: Duration,
    /// How long a request's body may take to arrive.
    pub body_max: Duration,
    /// How long a caller may take to read an answer that does not fit the system's buffers.
    pub write_max: Duration,
    /// How long a stop waits for connections before it closes them.
    pub grace: Duration,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            request_rows_max: 16_384,
            request_bytes_max: 32 << 20,
            bytes_in_flight_max: 256 << 20,
            connections_max: 512,
            head_max: Duration::from_secs(60),
            body_max: Duration::from_secs(30),
            write_max: Duration::from_secs(30),
            grace: Duration::from_secs(10),
        }
    }
}

/// What every request sees.
pub struct Server {
    repository: Repository,
    queue: Queue,
    metrics: Arc<Metrics>,
    bytes: BytesInFlight,
    settings: HttpSettings,
    log: Option<PredictionLog>,
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
            bytes: BytesInFlight::new(&settings),
            settings,
            log: None,
            stopping: AtomicBool::new(false),
        }
    }

    /// Logs requests, too.
    #[must_use]
    pub fn with_log(mut self, log: PredictionLog) -> Self {
        self.log = Some(log);
        self
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
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send + 'static,
    ) {
        let server = Arc::clone(&self);
        let stop = async move {
            stop.await;
            server.stopping.store(true, Ordering::Relaxed);
        };
        let connections = Connections::new(self.router(), self.settings.clone());
        connections.serve(listener, stop).await;
        self.queue.stop();
        if let Some(log) = &self.log {
            log.stop();
        }
    }
}
