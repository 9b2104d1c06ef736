//! The dashboard: pages over the tables, from a pillar to a feature to a segment to the requests themselves.
//!
//! ```text
//! tables by the hour ─► summaries (sketches, kept) ─┬─► pages: tables and inline SVG
//! artifact's training profile ──────────────────────┴─► OpenMetrics
//! ```
//!
//! It answers requests and knows no connections; files of the tables never change, so each is read once.

mod address;
mod feature;
mod figures;
mod incidents;
mod metrics;
mod overview;
mod page;
mod pillars;
mod requests;
mod rule;
mod rules;
mod segments;
mod summary;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use streamrec_artifact::Artifact;
use streamrec_serving::http::{SiteAnswer, SiteRequest};

use super::{Hour, MonitoringError, Store, Table};
use crate::validation::drift::DriftLimits;
use address::Address;
use page::{HTML, Page};
use summary::{HourSummary, Window};

/// Hours that a page may look back.
const HOURS_MAX: i64 = 24 * 14;

/// What all pages are made from.
pub struct Dashboard {
    store: Store,
    artifact: Artifact,
    limits: DriftLimits,
    kept: Mutex<BTreeMap<Hour, Arc<HourSummary>>>,
}

impl Dashboard {
    /// A dashboard of a monitoring folder beside the artifact that is served.
    pub fn new(store: Store, artifact: Artifact, limits: DriftLimits) -> Self {
        Self {
            store,
            artifact,
            limits,
            kept: Mutex::default(),
        }
    }

    /// Answers a request at a moment, in milliseconds since the epoch.
    pub fn answer(&self, request: &SiteRequest, now_ms: i64) -> SiteAnswer {
        let address = Address::of(request);
        match (request.method.as_str(), address.path.as_str()) {
            ("GET", "/static/dashboard.css") => {
                return SiteAnswer::new(200, "text/css; charset=utf-8", page::STYLE);
            }
            ("GET", "/static/dashboard.js") => {
                return SiteAnswer::new(200, "text/javascript; charset=utf-8", page::SCRIPT);
            }
            _ => {}
        }
        let answered = match request.method.as_str() {
            "GET" => self.page(&address, now_ms),
            _ => incidents::acknowledge(&self.store, &address, &request.body, now_ms),
        };
        answered.unwrap_or_else(|error| {
            tracing::error!(%error, path = address.path, "no page");
            let mut page = Page::new("Something cannot be read", &address);
            page.paragraph(&crate::monitoring::error::chain(&error));
            SiteAnswer::new(500, HTML, page.html(now_ms))
        })
    }

    fn page(&self, address: &Address, now_ms: i64) -> Result<SiteAnswer, MonitoringError> {
        let parts: Vec<&str> = address.path.trim_matches('/').split('/').collect();
        let html = match parts.as_slice() {
            [""] => overview::page(self, address, now_ms)?,
            ["metrics"] => {
                let text = metrics::text(self, &self.window(address, now_ms)?)?;
                return Ok(SiteAnswer::new(200, metrics::CONTENT_TYPE, text));
            }
            ["pillar", pillar] => match pillars::page(self, address, pillar, now_ms)? {
                Some(html) => html,
                None => return Ok(not_found(address, now_ms)),
            },
            ["feature", name] => match feature::page(self, address, name, now_ms)? {
                Some(html) => html,
                None => return Ok(not_found(address, now_ms)),
            },
            ["requests"] => requests::list(self, address, now_ms)?,
            ["requests", id] => requests::one(self, address, id, now_ms)?,
            ["incidents"] => incidents::list(&self.store, address, now_ms)?,
            ["rules"] => rules::list(&self.store, address, now_ms)?,
            ["rules", name] => match rule::page(&self.store, address, name, now_ms)? {
                Some(html) => html,
                None => return Ok(not_found(address, now_ms)),
            },
            _ => return Ok(not_found(address, now_ms)),
        };
        Ok(SiteAnswer::new(200, HTML, html))
    }

    /// What the hours that a page asks for look like, to the one that `now` is in.
    fn window(&self, address: &Address, now_ms: i64) -> Result<Window, MonitoringError> {
        let hours = address.number("hours").unwrap_or(24).clamp(1, HOURS_MAX);
        let first = Hour::of(now_ms - (hours - 1) * 3_600_000);
        let mut found = Vec::new();
        let wanted = self.store.hours(Table::Predictions)?;
        for hour in wanted.into_iter().filter(|hour| *hour >= first) {
            found.push((hour, self.hour(hour)?));
        }
        Ok(Window {
            hours,
            now_ms,
            found,
        })
    }

    /// An hour's summary, with what was added to it since it was last looked at.
    fn hour(&self, hour: Hour) -> Result<Arc<HourSummary>, MonitoringError> {
        let files = [
            self.store.files(Table::Predictions, hour)?,
            self.store.files(Table::Labelled, hour)?,
        ];
        let kept = {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.get(&hour).map(Arc::clone)
        };
        let missing = |kept: Option<&HourSummary>| -> [Vec<PathBuf>; 2] {
            let new = |path: &&PathBuf| kept.is_none_or(|kept| !kept.files.contains(*path));
            files
                .each_ref()
                .map(|files| files.iter().filter(new).cloned().collect())
        };
        let [predictions, labelled] = missing(kept.as_deref());
        if let Some(kept) = kept
            .as_ref()
            .filter(|_| predictions.is_empty() && labelled.is_empty())
        {
            return Ok(Arc::clone(kept));
        }
        let mut summary = kept.map_or_else(
            || HourSummary::new(&self.artifact),
            |kept| HourSummary::clone(&kept),
        );
        for path in predictions {
            summary.add_predictions(&self.artifact, path)?;
        }
        for path in labelled {
            summary.add_labelled(path)?;
        }
        let summary = Arc::new(summary);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.insert(hour, Arc::clone(&summary));
        // Hours that no page can ask for any more.
        while kept.len() as i64 > HOURS_MAX {
            kept.pop_first();
        }
        Ok(summary)
    }
}

fn not_found(address: &Address, now_ms: i64) -> SiteAnswer {
    let mut page = Page::new("No such page", address);
    page.paragraph("The overview leads to all there are.");
    SiteAnswer::new(404, HTML, page.html(now_ms))
}
