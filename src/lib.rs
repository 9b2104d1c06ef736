//! StreamRec trains ranking models of recommender systems, from data to a served artifact.
//!
//! ```text
//! data ─► packed dataset ─► ranks: forward ▸ backward ▸ all-reduce ▸ update ─► checkpoint ─► artifact
//! ```
//!
//! A module imports only modules above it in this list (a test keeps the order):
//! `config`, `data`, `comm`, `model`, `parallel`, `optim`, `train`, `checkpoint`, `export`,
//! `validation`, `monitoring`, `run`.
#![deny(unsafe_code)]

pub mod config;

pub mod data;

pub mod comm;

pub mod model;

pub mod parallel;

pub mod optim;

pub mod train;

pub mod checkpoint;

pub mod export;

pub mod validation;

pub mod monitoring;

pub mod run;
