//! Alerts: pending, firing, resolved; told to people who act.
//!
//! ```text
//! judgements of a window ─► Alert ─► transitions ─► incidents/  triggers/  outbox/ ─► webhooks
//! ```

mod incident;
mod outbox;
mod payload;
mod postmortem;
mod state;
#[cfg(test)]
mod tests;
mod trigger;

pub use incident::{
    INCIDENT_VERSION, Incident, IncidentAlert, IncidentStatus, Incidents, TimelineEntry,
};
pub use outbox::{Delivery, Outbox};
pub use payload::{Notification, NotifiedAlert};
pub use postmortem::postmortem;
pub use state::{Alert, Phase, Transition, step};
pub use trigger::{Cause, Evidence, TRIGGER_VERSION, Trigger};

/// A moment for people, RFC 3339 in UTC.
fn rfc3339(time_ms: i64) -> String {
    let moment = jiff::Timestamp::from_millisecond(time_ms);
    moment.map_or_else(|_| time_ms.to_string(), |moment| moment.to_string())
}
