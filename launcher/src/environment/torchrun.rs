//! The environment of a worker of torchrun (<https://docs.pytorch.org/docs/stable/elastic/run.html>) or of
//! `streamrec launch`.

use super::reader::{Reader, at_most};
use super::{DEFAULT_PORT, EnvironmentError, RankEnvironment, Source};

pub(super) fn resolve(reader: &Reader<'_>) -> Result<RankEnvironment, EnvironmentError> {
    let (rank, world_size) = reader.place("RANK", "WORLD_SIZE")?;
    let (local_rank, local_world_size) = reader.place("LOCAL_RANK", "LOCAL_WORLD_SIZE")?;
    at_most(
        ("LOCAL_WORLD_SIZE", local_world_size),
        ("WORLD_SIZE", world_size),
    )?;

    let alone = world_size == 1;
    let master_addr = match reader.text("MASTER_ADDR") {
        Some(address) => address,
        None if alone => "127.0.0.1",
        None => return Err(reader.missing("MASTER_ADDR")),
    };
    let named_port = match reader.port()? {
        Some(port) => port,
        None if alone => DEFAULT_PORT,
        None => return Err(reader.missing("MASTER_PORT")),
    };
    let agent_listens = reader
        .text("TORCHELASTIC_USE_AGENT_STORE")
        .is_some_and(|v| v.eq_ignore_ascii_case("true"));
    let master_port = named_port
        .checked_add(u16::from(agent_listens))
        .ok_or_else(|| EnvironmentError::Invalid {
            name: "MASTER_PORT",
            value: named_port.to_string(),
            expected: "below 65535, as TORCHELASTIC_USE_AGENT_STORE moves ranks to the next port",
        })?;
    Ok(RankEnvironment {
        rank,
        local_rank,
        world_size,
        local_world_size,
        group_rank: reader
            .optional("GROUP_RANK")?
            .unwrap_or(rank / local_world_size),
        master_addr: master_addr.to_owned(),
        master_port,
        restart_count: reader.optional("TORCHELASTIC_RESTART_COUNT")?.unwrap_or(0),
        run_id: reader
            .text("TORCHELASTIC_RUN_ID")
            .unwrap_or("none")
            .to_owned(),
        source: Source::Torchrun,
    })
}
