//! `streamrec validate gate`: judges an artifact and writes its verdict beside it.

use std::collections::BTreeMap;
use std::path::Path;

use streamrec_artifact::{MANIFEST_FILE, Outcome, VERDICT_VERSION, Verdict};
use xxhash_rust::xxh3::xxh3_128;

use super::behaviour;
use crate::data::{Dataset, Split};
use crate::run::RunError;
use crate::run::cli::ValidateGateArgs;
use crate::train::Progress;
use crate::validation::ArtifactModel;
use crate::validation::behaviour::{BehaviourSuite, run as run_suite};
use crate::validation::gate::{
    Against, Criterion, Evidence, Finding, GateConfig, Models, judge, outcome,
};

pub(super) fn run(args: &ValidateGateArgs) -> Result<Outcome, RunError> {
    let (gate, text) = GateConfig::load(&args.gate)?;
    let dataset = Dataset::open(&args.data)?;
    // Digests first: what changes while it is judged was not judged.
    let files = digests(&args.artifact)?;
    let mut challenger = ArtifactModel::load(&args.artifact)?;
    let named = [
        (Against::Champion, &args.champion),
        (Against::Reference, &args.reference),
    ];
    let named = named
        .into_iter()
        .filter_map(|(against, folder)| Some((against, folder.as_deref()?)));
    let named: Vec<(Against, &Path)> = named.collect();
    let mut others = Vec::new();
    for (against, folder) in &named {
        others.push((*against, ArtifactModel::load(folder)?));
    }
    let evidence = gather(args, &gate, &dataset, &mut challenger, &mut others)?;
    let findings = judge(&gate, &evidence);
    let outcome = outcome(&findings);
    print(&gate, &findings, outcome);
    if !args.dry_run {
        let verdict = Verdict {
            format_version: VERDICT_VERSION,
            outcome,
            gate: gate.name.clone(),
            gate_xxh3_128: format!("{:032x}", xxh3_128(text.as_bytes())),
            created: jiff::Timestamp::now().to_string(),
            data_version: dataset.version(),
            files,
            compared_with: compared_with(&named)?,
            findings: findings
                .iter()
                .map(serde_json::to_value)
                .collect::<Result<_, _>>()
                .map_err(RunError::other("a finding has no JSON form"))?,
        };
        let failed = format!("cannot write the verdict of {}", args.artifact.display());
        verdict
            .write(&args.artifact)
            .map_err(RunError::other(failed))?;
    }
    Ok(outcome)
}

fn gather(
    args: &ValidateGateArgs,
    gate: &GateConfig,
    dataset: &Dataset,
    challenger: &mut ArtifactModel,
    others: &mut [(Against, ArtifactModel)],
) -> Result<Evidence, RunError> {
    let split: Split = args.split.into();
    let rows = dataset.splits.get(&split).map_or(0, |file| file.rows);
    let mut progress = Progress::new("score", "rows", rows);
    let mut models = Models {
        challenger,
        others: others
            .iter_mut()
            .map(|(against, model)| (*against, model))
            .collect(),
    };
    let tick = |rows| progress.at(rows, String::new);
    let mut evidence = Evidence::gather(gate, &mut models, dataset, &[split], tick)?;
    progress.finish();
    let challenger = models.challenger;
    let sample = behaviour::sample(dataset, challenger.encoder(), 2000)?;
    for criterion in &gate.criteria {
        if let Criterion::Latency { rows, requests, .. } = criterion {
            evidence.time(challenger, &sample, *rows, *requests)?;
        }
    }
    if let Some(path) = &args.behaviour {
        let suite = BehaviourSuite::load(path)?;
        evidence.behaviour = Some(run_suite(&suite, challenger, &sample)?);
    }
    Ok(evidence)
}

fn digests(folder: &Path) -> Result<BTreeMap<String, streamrec_artifact::FileDigest>, RunError> {
    let failed = format!("cannot read the artifact {}", folder.display());
    Verdict::digests(folder).map_err(RunError::other(failed))
}

fn compared_with(
    named: &[(Against, &Path)],
) -> Result<BTreeMap<String, streamrec_artifact::FileDigest>, RunError> {
    let mut found = BTreeMap::new();
    for (against, folder) in named {
        let name = match against {
            Against::Champion => "champion",
            Against::Reference => "reference",
        };
        if let Some(digest) = digests(folder)?.remove(MANIFEST_FILE) {
            found.insert(name.to_owned(), digest);
        }
    }
    Ok(found)
}

fn print(gate: &GateConfig, findings: &[Finding], outcome: Outcome) {
    for finding in findings {
        let observed = match (finding.observed, finding.interval) {
            (Some(value), Some([low, high])) => format!(": {value:.5} [{low:.5}, {high:.5}]"),
            (Some(value), None) => format!(": {value:.5}"),
            (None, _) => String::new(),
        };
        println!(
            "{} {}{observed}: {}",
            finding.outcome, finding.asked, finding.reason
        );
    }
    println!("{}: {outcome}", gate.name);
}
