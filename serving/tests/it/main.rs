//! Claims about the server: the real program, real connections, real signals.

mod batching;
mod connections;
mod loading;
mod metrics;
mod model;
mod overload;
mod prediction_log;
mod program;
mod protocol;
mod reference;
mod refusals;
mod row;
mod stopping;
mod swapping;
