//! The environment of a Slurm job step: what `srun` gives each task
//! (<https://slurm.schedmd.com/srun.html>, "Output environment variables").

use super::reader::{Reader, at_most, below};
use super::{EnvironmentError, RankEnvironment, Source, Variables, port_of};

/// A batch script carries `SLURM_PROCID=0` and the whole allocation's `SLURM_NTASKS`, but is one process: only a step
/// counts.
pub(super) fn in_step(variables: &Variables) -> bool {
    let step = variables.contains_key("SLURM_STEP_ID") || !variables.contains_key("SLURM_JOB_ID");
    if !step {
        tracing::info!(
            "inside a Slurm batch script, not a step: use srun to start one process for each rank"
        );
    }
    step
}

pub(super) fn resolve(reader: &Reader<'_>) -> Result<RankEnvironment, EnvironmentError> {
    let size = if reader.text("SLURM_STEP_NUM_TASKS").is_some() {
        "SLURM_STEP_NUM_TASKS"
    } else {
        "SLURM_NTASKS"
    };
    let (rank, world_size) = reader.place("SLURM_PROCID", size)?;
    let local_rank = reader.required("SLURM_LOCALID")?;
    let group_rank = reader.optional("SLURM_NODEID")?.unwrap_or(0);
    let (tasks, local_world_size) = local_size(reader, group_rank, (size, world_size))?;
    below(("SLURM_LOCALID", local_rank), (tasks, local_world_size))?;
    at_most((tasks, local_world_size), (size, world_size))?;

    let run_id = match (reader.text("SLURM_JOB_ID"), reader.text("SLURM_STEP_ID")) {
        (Some(job), Some(step)) => format!("{job}.{step}"),
        _ => "slurm".to_owned(),
    };
    let master_addr = match reader.text("MASTER_ADDR") {
        Some(address) => address.to_owned(),
        None if local_world_size == world_size => "127.0.0.1".to_owned(),
        None => ["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"]
            .into_iter()
            .find_map(|name| reader.text(name))
            .map(first_host)
            .ok_or_else(|| reader.missing("SLURM_STEP_NODELIST"))?,
    };
    Ok(RankEnvironment {
        rank,
        local_rank,
        world_size,
        local_world_size,
        group_rank,
        master_addr,
        master_port: reader.port()?.unwrap_or_else(|| port_of(&run_id)),
        restart_count: reader.optional("SLURM_RESTART_COUNT")?.unwrap_or(0),
        run_id,
        source: Source::Slurm,
    })
}

/// The number of tasks on this host, and the variable that told it.
fn local_size(
    reader: &Reader<'_>,
    node: usize,
    world: (&'static str, usize),
) -> Result<(&'static str, usize), EnvironmentError> {
    for name in ["SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"] {
        let Some(value) = reader.text(name) else {
            continue;
        };
        let size = tasks_on(value, node).ok_or_else(|| EnvironmentError::Invalid {
            name,
            value: value.to_owned(),
            expected: "a list of tasks per node such as 4(x2),3 with an entry for SLURM_NODEID",
        })?;
        return Ok((name, size));
    }
    match reader.optional("SLURM_NNODES")?.unwrap_or(1_usize) {
        1 => Ok(world),
        _ => Err(reader.missing("SLURM_STEP_TASKS_PER_NODE")),
    }
}

/// The entry of `node` in a list such as `4(x2),3`: 4 tasks on nodes 0 and 1, 3 on node 2.
fn tasks_on(list: &str, node: usize) -> Option<usize> {
    let mut first = 0_usize;
    for entry in list.split(',') {
        let (tasks, nodes) = match entry.split_once("(x") {
            Some((tasks, nodes)) => (tasks, nodes.strip_suffix(')')?.parse().ok()?),
            None => (entry, 1),
        };
        let tasks = tasks.trim().parse().ok()?;
        first = first.checked_add(nodes)?;
        if node < first {
            return Some(tasks);
        }
    }
    None
}

/// The first host of a node list such as `gpu[003-010,012],cpu1`: there `gpu003`.
fn first_host(list: &str) -> String {
    let mut host = String::new();
    let mut rest = list;
    while let Some((plain, ranges)) = rest.split_once('[') {
        if let Some((name, _)) = plain.split_once(',') {
            return host + name;
        }
        let (range, after) = ranges.split_once(']').unwrap_or((ranges, ""));
        host.push_str(plain);
        host.push_str(range.split([',', '-']).next().unwrap_or(range));
        rest = after;
    }
    host + rest.split(',').next().unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::super::tests::variables;
    use super::*;

    const STEP: [(&str, &str); 9] = [
        ("SLURM_JOB_ID", "812"),
        ("SLURM_STEP_ID", "0"),
        ("SLURM_PROCID", "5"),
        ("SLURM_NTASKS", "7"),
        ("SLURM_LOCALID", "1"),
        ("SLURM_NODEID", "1"),
        ("SLURM_STEP_TASKS_PER_NODE", "4,3"),
        ("SLURM_STEP_NODELIST", "gpu[03-04]"),
        ("SLURM_RESTART_COUNT", "1"),
    ];

    #[test]
    fn a_step_over_two_nodes_finds_its_place() {
        let found = RankEnvironment::resolve(&variables(&STEP)).unwrap();
        assert_eq!(
            (found.rank, found.world_size, found.source),
            (5, 7, Source::Slurm)
        );
        assert_eq!(
            (found.local_rank, found.local_world_size, found.group_rank),
            (1, 3, 1)
        );
        assert_eq!(
            (found.master_addr.as_str(), found.restart_count),
            ("gpu03", 1)
        );
        assert_eq!(found.run_id, "812.0");
        assert_eq!(found.master_port, port_of("812.0"));
    }

    #[test]
    fn a_batch_script_is_a_single_rank() {
        let mut script = variables(&STEP);
        script.remove("SLURM_STEP_ID");
        assert_eq!(
            RankEnvironment::resolve(&script).unwrap(),
            RankEnvironment::single()
        );
    }

    #[test]
    fn one_node_needs_no_list_of_tasks() {
        let found = RankEnvironment::resolve(&variables(&[
            ("SLURM_PROCID", "1"),
            ("SLURM_NTASKS", "2"),
            ("SLURM_LOCALID", "1"),
        ]))
        .unwrap();
        assert_eq!(
            (found.local_world_size, found.master_addr.as_str()),
            (2, "127.0.0.1")
        );
    }

    #[test]
    fn contradictions_name_the_slurm_variable() {
        for (name, value) in [
            ("SLURM_PROCID", "7"),
            ("SLURM_LOCALID", "3"),
            ("SLURM_STEP_TASKS_PER_NODE", "4(x"),
        ] {
            let mut broken = variables(&STEP);
            broken.insert(name.to_owned(), value.to_owned());
            let message = RankEnvironment::resolve(&broken).unwrap_err().to_string();
            assert!(
                message.contains(name) && message.contains(value),
                "{message}"
            );
        }
    }

    #[test]
    fn lists_of_nodes_and_tasks_are_read_as_slurm_writes_them() {
        for (list, host) in [
            ("a", "a"),
            ("a1,b2", "a1"),
            ("gpu[003-010,012],cpu1", "gpu003"),
            ("a,b[1-2]", "a"),
            ("r[1-2]n[5,7]x", "r1n5x"),
        ] {
            assert_eq!(first_host(list), host, "{list}");
        }
        let tasks: Vec<_> = (0..4).map(|node| tasks_on("4(x2),3", node)).collect();
        assert_eq!(tasks, [Some(4), Some(4), Some(3), None]);
    }
}
