//! Reads the variables of one source, and says what is wrong with them.

use std::str::FromStr;

use super::{
    EnvironmentError, RESTART_COUNT_VARIABLE, RUN_ID_VARIABLE, RankEnvironment, Source, Variables,
    port_of,
};

/// Reads variables of one source and knows what to say when one is wrong.
pub(super) struct Reader<'a> {
    pub variables: &'a Variables,
    pub source: Source,
    /// The variable by which the source was recognised.
    pub marker: &'static str,
}

impl<'a> Reader<'a> {
    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.variables.get(name).map(String::as_str)
    }

    pub fn optional<T: FromStr>(&self, name: &'static str) -> Result<Option<T>, EnvironmentError> {
        self.text(name)
            .map(|value| {
                value.trim().parse().map_err(|_| EnvironmentError::Invalid {
                    name,
                    value: value.to_owned(),
                    expected: "a number from 0",
                })
            })
            .transpose()
    }

    pub fn missing(&self, name: &'static str) -> EnvironmentError {
        EnvironmentError::Missing {
            launcher: self.source,
            name,
            present: self.marker,
        }
    }

    pub fn required(&self, name: &'static str) -> Result<usize, EnvironmentError> {
        self.optional(name)?.ok_or_else(|| self.missing(name))
    }

    pub fn port(&self) -> Result<Option<u16>, EnvironmentError> {
        let Some(value) = self.text("MASTER_PORT") else {
            return Ok(None);
        };
        match value.trim().parse() {
            Ok(port) if port > 0 => Ok(Some(port)),
            _ => Err(EnvironmentError::Invalid {
                name: "MASTER_PORT",
                value: value.to_owned(),
                expected: "a port from 1 to 65535",
            }),
        }
    }

    /// An index and the size it must be below.
    pub fn place(
        &self,
        index: &'static str,
        size: &'static str,
    ) -> Result<(usize, usize), EnvironmentError> {
        let place = (self.required(index)?, self.required(size)?);
        below((index, place.0), (size, place.1))?;
        Ok(place)
    }

    /// A rank that some `mpirun` started. `job` is its name of the job, distinct for two at once where it has one, and
    /// so is the port.
    pub fn mpi_rank(
        &self,
        (rank, world_size): (usize, usize),
        (local_rank, local_world_size): (usize, usize),
        job: &str,
    ) -> Result<RankEnvironment, EnvironmentError> {
        let alone = local_world_size == world_size;
        // Over MPI ranks need no address; whoever does says that there is none.
        let implied = if alone { "127.0.0.1" } else { "" };
        Ok(RankEnvironment {
            rank,
            local_rank,
            world_size,
            local_world_size,
            group_rank: rank / local_world_size,
            master_addr: self.text("MASTER_ADDR").unwrap_or(implied).to_owned(),
            master_port: self.port()?.unwrap_or_else(|| port_of(job)),
            restart_count: self.optional(RESTART_COUNT_VARIABLE)?.unwrap_or(0),
            run_id: self.text(RUN_ID_VARIABLE).unwrap_or(job).to_owned(),
            source: self.source,
        })
    }
}

type Named = (&'static str, usize);

pub(super) fn below(
    (name, value): Named,
    (other, other_value): Named,
) -> Result<(), EnvironmentError> {
    let rule = if other_value == 0 {
        "there is at least one rank"
    } else {
        "ranks count from 0 to one below the size"
    };
    if value < other_value {
        return Ok(());
    }
    Err(EnvironmentError::Contradiction {
        name,
        value,
        other,
        other_value,
        rule,
    })
}

pub(super) fn at_most(
    (name, value): Named,
    (other, other_value): Named,
) -> Result<(), EnvironmentError> {
    let rule = "a host cannot hold more ranks than the job";
    if value <= other_value {
        return Ok(());
    }
    Err(EnvironmentError::Contradiction {
        name,
        value,
        other,
        other_value,
        rule,
    })
}
