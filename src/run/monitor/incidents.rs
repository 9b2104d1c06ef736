//! `streamrec monitor incidents`: who knows, what was done, what is to be learnt.

use crate::monitoring::Store;
use crate::monitoring::alert::{IncidentStatus, Incidents, postmortem};
use crate::run::cli::{MonitorIncidentArgs, MonitorIncidentsCommand};
use crate::run::{RunError, folder};

pub(super) fn run(command: &MonitorIncidentsCommand) -> Result<(), RunError> {
    match command {
        MonitorIncidentsCommand::List { dir, all, json } => {
            let mut found = Incidents::new(Store::open(dir)?.root()).all()?;
            found.retain(|incident| *all || !incident.closed);
            if *json {
                let text = serde_json::to_string(&found).map_err(RunError::other("no JSON"))?;
                println!("{text}");
                return Ok(());
            }
            for incident in &found {
                let status = format!("{:?}", incident.status()).to_lowercase();
                let severity = format!("{:?}", incident.severity).to_lowercase();
                println!(
                    "{} {status} {severity}, owner {}",
                    incident.id, incident.owner
                );
                for alert in &incident.alerts {
                    println!("  {}", alert.summary);
                }
            }
            println!("{} incidents", found.len());
            Ok(())
        }
        MonitorIncidentsCommand::Ack(args) => change(args, false),
        MonitorIncidentsCommand::Close(args) => change(args, true),
        MonitorIncidentsCommand::Postmortem { id, dir, out } => {
            let text = postmortem(&Incidents::new(Store::open(dir)?.root()).read(id)?);
            match out {
                Some(path) => folder::replace(path, text.as_bytes()),
                None => {
                    print!("{text}");
                    Ok(())
                }
            }
        }
    }
}

fn change(args: &MonitorIncidentArgs, close: bool) -> Result<(), RunError> {
    let _lock = Store::open(&args.dir)?.lock_windows()?;
    let incidents = Incidents::new(&args.dir);
    let mut incident = incidents.read(&args.id)?;
    let now_ms = jiff::Timestamp::now().as_millisecond();
    if close && incident.resolved_ms.is_none() {
        return Err(RunError::Usage(format!(
            "{} still fires; it can be closed once its alerts are over",
            incident.id
        )));
    }
    if incident.status() == IncidentStatus::Closed {
        return Err(RunError::Usage(format!("{} is closed", incident.id)));
    }
    let what = if close {
        incident.closed = true;
        "closed"
    } else {
        incident.acknowledged_by = Some(args.by.clone());
        "acknowledged"
    };
    let note = args
        .note
        .as_ref()
        .map_or_else(String::new, |note| format!(": {note}"));
    incident.note(now_ms, &args.by, format!("{what}{note}"));
    incidents.write(&incident)?;
    println!("{} {what} by {}", incident.id, args.by);
    Ok(())
}
