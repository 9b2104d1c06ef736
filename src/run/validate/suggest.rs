//! `streamrec validate suggest`: a suite from days of data.

use streamrec_artifact::Outcome;

use crate::run::cli::ValidateSuggestArgs;
use crate::run::{RunError, folder};
use crate::validation::expectations::{SuggestSettings, Table, suggest};

pub(super) fn run(args: &ValidateSuggestArgs) -> Result<Outcome, RunError> {
    let tables = args.data.iter().map(|path| Table::open(path, None));
    let tables = tables.collect::<Result<Vec<_>, _>>()?;
    let settings = SuggestSettings {
        name: args.out.file_stem().map_or_else(
            || "suggested".into(),
            |stem| stem.to_string_lossy().into_owned(),
        ),
        time: args.time.clone(),
        segment: args.segment.clone(),
    };
    let suite = suggest(&tables, &settings)?;
    let is_toml = args
        .out
        .extension()
        .is_some_and(|extension| extension == "toml");
    let text = if is_toml {
        toml::to_string_pretty(&suite).map_err(RunError::other("the suite has no TOML form"))?
    } else {
        serde_json::to_string_pretty(&suite)
            .map_err(RunError::other("the suite has no JSON form"))?
    };
    folder::replace(&args.out, text.as_bytes())?;
    println!(
        "{} expectations from {} days with {} rows are in {}: review them before they judge",
        suite.expectations.len(),
        suite.meta["days"],
        suite.meta["rows"],
        args.out.display()
    );
    Ok(Outcome::Pass)
}
