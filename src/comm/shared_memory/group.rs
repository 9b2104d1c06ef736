//! How groups come about: the world through a bootstrap, its parts by splitting.

use std::sync::Arc;

use super::Settings;
use super::address::Address;
use super::control::{Control, MAX_RANKS};
use super::engine::{Engine, memory_error};
use crate::comm::call::Kind;
use crate::comm::typed::values_of;
use crate::comm::{Bootstrap, BootstrapError, CommError};

/// Where rank 0 puts the address of its control page.
const CONTROL_KEY: &str = "shared-memory/control";

/// Connects `rank` of a world of `size` ranks.
pub(super) fn connect(
    rank: usize,
    size: usize,
    bootstrap: &dyn Bootstrap,
    settings: Settings,
) -> Result<Engine, CommError> {
    if rank >= size || size > MAX_RANKS {
        let problem = format!("expected a rank below the size, {size}, at most {MAX_RANKS}");
        return Err(CommError::Connect { rank, problem });
    }
    let world = (0..size).collect();
    if rank == 0 {
        let (control, _file, address) = create(size)?;
        let published = bootstrap.put(CONTROL_KEY, &address.to_string());
        published.map_err(|source| CommError::Bootstrap { rank, source })?;
        // `_file` stays open until all ranks have joined.
        return Engine::join(control, rank, world, settings);
    }
    let address = bootstrap
        .get(CONTROL_KEY, settings.timeout)
        .map_err(|source| match source {
            BootstrapError::Timeout { waited, .. } => CommError::Timeout {
                collective: Kind::Connect.name(),
                sequence: 1,
                missing: vec![0],
                waited,
            },
            source => CommError::Bootstrap { rank, source },
        })?;
    Engine::join(open(&address, size, rank)?, rank, world, settings)
}

impl Engine {
    /// Splits the group by color. `None` for a rank that is alone.
    pub(super) fn split(&mut self, color: usize, key: usize) -> Result<Option<Self>, CommError> {
        let members = self.members(color, key)?;
        let position = members.iter().position(|rank| *rank == self.rank);
        let position = position.expect("a rank has its own color");
        let is_leader = position == 0 && members.len() > 1;
        let own = is_leader.then(|| create(members.len())).transpose();
        // The others wait for the address: they must hear that it will not come.
        let own = own.inspect_err(|error| self.poison(error))?;
        let address = own
            .as_ref()
            .map(|(_, _, address)| address.to_string())
            .unwrap_or_default();
        let addresses = self.gather(Kind::Split, address.as_bytes())?;
        if members.len() == 1 {
            return Ok(None);
        }
        let world: Arc<[usize]> = members.iter().map(|rank| self.world[*rank]).collect();
        let settings = Settings {
            observer: self.settings.observer.of_group(),
            ..self.settings.clone()
        };
        if let Some((control, _file, _)) = own {
            return Self::join(control, position, world, settings).map(Some);
        }
        let address = String::from_utf8_lossy(&addresses[members[0]]);
        let control = open(&address, members.len(), self.world[self.rank])?;
        Self::join(control, position, world, settings).map(Some)
    }

    /// The ranks of this group with the same color, by key, then by rank.
    fn members(&mut self, color: usize, key: usize) -> Result<Vec<usize>, CommError> {
        let own = [color as u64, key as u64];
        let all = self.gather(Kind::Split, bytemuck::cast_slice(&own))?;
        let mut members = Vec::new();
        for (rank, message) in all.iter().enumerate() {
            let theirs: Vec<u64> = values_of(message).unwrap_or_default();
            let [their_color, their_key] = theirs[..] else {
                return Err(CommError::Corrupt {
                    collective: Kind::Split.name(),
                    rank: self.world[rank],
                    problem: format!("expected a color and a key, got {} bytes", message.len()),
                });
            };
            if their_color == color as u64 {
                members.push((their_key, rank));
            }
        }
        members.sort_unstable();
        Ok(members.into_iter().map(|(_, rank)| rank).collect())
    }
}

fn create(size: usize) -> Result<(Control, super::segment::SegmentFile, Address), CommError> {
    Control::create(size).map_err(|error| memory_error("make a control page", 0, error))
}

fn open(address: &str, size: usize, rank: usize) -> Result<Control, CommError> {
    let address = address.parse::<Address>();
    let control = address.and_then(|address| Control::open(&address, size));
    control.map_err(|problem| CommError::Connect { rank, problem })
}
