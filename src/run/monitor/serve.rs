//! `streamrec monitor serve`: the dashboard.

use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use streamrec_serving::http::serve_site;

use crate::monitoring::Store;
use crate::monitoring::dashboard::Dashboard;
use crate::run::cli::MonitorServeArgs;
use crate::run::{RunError, artifact};
use crate::validation::drift::DriftLimits;

pub(super) fn run(args: &MonitorServeArgs) -> Result<(), RunError> {
    let artifact = artifact::read(&args.artifact)?;
    let limits = args.limits.as_deref().map(DriftLimits::load).transpose()?;
    let limits = limits.unwrap_or_default();
    let schema = &artifact.manifest.schema;
    limits.fit(&schema.inputs, &schema.labels)?;
    let dashboard = Dashboard::new(Store::open(&args.dir)?, artifact, limits);
    let site = Arc::new(move |request| dashboard.answer(&request, now_ms()));
    let served = serve_site(&args.listen, site, |address| {
        // On standard output, for scripts that started us with port 0; flushed, as it may be a pipe.
        println!("listening on http://{address}");
        let _ = std::io::stdout().flush();
    });
    served.map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => RunError::Usage(format!(
            "cannot listen on {}: the port is in use; choose another by --listen",
            args.listen
        )),
        _ => RunError::other(format!("cannot listen on {}", args.listen))(error),
    })
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}
