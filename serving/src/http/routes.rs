//! One function a path.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::{Method, StatusCode, Uri, header::CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::Server;
use super::body::{self, HeldBody};
use super::error::HttpError;
use super::logged::{Trace, with_id};
use crate::metrics::Outcome;
use crate::prediction_log::PredictionLog;
use crate::protocol::{
    Expected, InferRequest, InferResponse, ModelMetadata, OutputTensor, ServerMetadata,
};
use crate::ranker::Ranker;

/// JSON above this is read or written by a thread of its own; below, the change of threads would
/// cost more than it spares others.
const LARGE_BYTES: usize = 256 << 10;
/// About what a probability takes in JSON.
const PROBABILITY_BYTES: usize = 12;

type App = State<Arc<Server>>;
type Answer<T> = Result<T, HttpError>;

pub(super) async fn server() -> Json<ServerMetadata> {
    Json(ServerMetadata::default())
}

pub(super) async fn live() -> Response {
    Json(json!({ "live": true })).into_response()
}

pub(super) async fn ready(State(server): App) -> Response {
    let ready = server.is_ready();
    readiness(ready, json!({ "ready": ready }))
}

pub(super) async fn model(
    State(server): App,
    Path(model): Path<String>,
) -> Answer<Json<ModelMetadata>> {
    let ranker = find(&server, &model, None)?;
    Ok(Json(ModelMetadata::of(&model, &ranker)))
}

pub(super) async fn version(
    State(server): App,
    Path((model, version)): Path<(String, String)>,
) -> Answer<Json<ModelMetadata>> {
    let ranker = find(&server, &model, Some(&version))?;
    Ok(Json(ModelMetadata::of(&model, &ranker)))
}

pub(super) async fn model_ready(State(server): App, Path(model): Path<String>) -> Answer<Response> {
    find(&server, &model, None)?;
    Ok(model_readiness(&server, &model))
}

pub(super) async fn version_ready(
    State(server): App,
    Path((model, version)): Path<(String, String)>,
) -> Answer<Response> {
    find(&server, &model, Some(&version))?;
    Ok(model_readiness(&server, &model))
}

pub(super) async fn infer(
    State(server): App,
    Path(model): Path<String>,
    request: Request,
) -> Answer<Response> {
    counted(&server, &model, None, request).await
}

pub(super) async fn version_infer(
    State(server): App,
    Path((model, version)): Path<(String, String)>,
    request: Request,
) -> Answer<Response> {
    counted(&server, &model, Some(&version), request).await
}

pub(super) async fn load(State(server): App, Path(model): Path<String>) -> Answer<Response> {
    find(&server, &model, None)?;
    // Callers that try again must not queue up loads.
    if server.repository.is_loading() {
        let message = "a version is being loaded already; ask again once it answers";
        return Err(HttpError::new(StatusCode::CONFLICT, message));
    }
    let loading = Arc::clone(&server);
    let loaded = tokio::task::spawn_blocking(move || loading.repository.reload()).await;
    let ranker = loaded.map_err(|error| {
        HttpError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("loading failed: {error}"),
        )
    })??;
    Ok(Json(json!({ "name": model, "version": ranker.version() })).into_response())
}

pub(super) async fn metrics(State(server): App) -> Answer<Response> {
    let text = server.metrics.text().map_err(|error| {
        HttpError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("no metrics: {error}"),
        )
    })?;
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(CONTENT_TYPE, content_type)], text).into_response())
}

pub(super) async fn unknown_path(uri: Uri) -> HttpError {
    let path = uri.path();
    HttpError::not_found(format!(
        "no path {path}; the Open Inference Protocol begins at /v2"
    ))
}

pub(super) async fn wrong_method(method: Method, uri: Uri) -> HttpError {
    let message = format!("{} does not take {method}", uri.path());
    HttpError::new(StatusCode::METHOD_NOT_ALLOWED, message)
}

fn readiness(ready: bool, body: serde_json::Value) -> Response {
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(body)).into_response()
}

fn model_readiness(server: &Server, model: &str) -> Response {
    let ready = server.is_ready();
    readiness(ready, json!({ "name": model, "ready": ready }))
}

fn find(server: &Server, model: &str, version: Option<&str>) -> Answer<Arc<Ranker>> {
    let name = server.repository.name();
    if model != name {
        return Err(HttpError::not_found(format!(
            "no model `{model}`; this server has `{name}`"
        )));
    }
    let ranker = server.repository.live();
    match version {
        Some(version) if version != ranker.version() => Err(HttpError::not_found(format!(
            "no version `{version}` of `{name}`; this server has `{}`",
            ranker.version()
        ))),
        _ => Ok(ranker),
    }
}

async fn counted(
    server: &Server,
    model: &str,
    version: Option<&str>,
    request: Request,
) -> Answer<Response> {
    let started = Instant::now();
    let _under_way = server.log.as_ref().map(PredictionLog::under_way);
    let mut trace = Trace::of(request.headers());
    let answer = scored(server, model, version, request, &mut trace).await;
    let outcome = match &answer {
        Ok(_) => Outcome::Ok,
        Err(error) => match error.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Outcome::Shed,
            StatusCode::INTERNAL_SERVER_ERROR => Outcome::Failed,
            _ => Outcome::BadRequest,
        },
    };
    let took = started.elapsed();
    server.metrics.request(outcome, took);
    match &server.log {
        Some(log) => {
            let live = || server.repository.live();
            let id = trace.log(log, live, outcome, took);
            Ok(with_id(answer.into_response(), &id))
        }
        None => answer,
    }
}

async fn scored(
    server: &Server,
    model: &str,
    version: Option<&str>,
    request: Request,
    trace: &mut Trace,
) -> Answer<Response> {
    let ranker = find(server, model, version)?;
    trace.ranker = Some(Arc::clone(&ranker));
    let HeldBody { bytes, room } = body::read(request, &server.settings, &server.bytes).await?;
    let rows_max = server.settings.request_rows_max;
    let reader = Arc::clone(&ranker);
    let large = bytes.len() > LARGE_BYTES;
    let request = off_the_workers(large, move || {
        let expected = Expected {
            inputs: reader.inputs(),
            labels: reader.labels(),
            rows_max,
        };
        InferRequest::parse(&bytes, expected)
    })
    .await??;
    let InferRequest { id, labels, rows } = request;
    trace.told(id.as_deref());
    let done = server.queue.score(Arc::clone(&ranker), rows).await;
    (trace.rows, trace.queue, trace.compute) = (done.rows, done.queue, done.compute);
    let probabilities = done.answer?;
    let model_name = model.to_owned();
    let large = probabilities.len() > LARGE_BYTES / PROBABILITY_BYTES;
    let (answer, scores) = off_the_workers(large, move || {
        let answer = Json(InferResponse {
            model_name,
            model_version: ranker.version().to_owned(),
            id,
            outputs: OutputTensor::of(&probabilities, ranker.labels(), &labels),
        });
        (answer.into_response(), probabilities)
    })
    .await?;
    trace.scores = scores;
    drop(room);
    Ok(answer)
}

/// Does `work` where it may take long: on a worker, it would hold up every connection of it.
async fn off_the_workers<T: Send + 'static>(
    large: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Answer<T> {
    if !large {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        HttpError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("a bug of the server, which its log tells: {error}"),
        )
    })
}
