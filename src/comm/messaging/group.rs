//! How a group splits into others.

use super::{Engine, Transport};
use crate::comm::call::Kind;
use crate::comm::typed::values_of;
use crate::comm::{CommError, Settings};

impl<T: Transport> Engine<T> {
    /// Splits the group by color. `None` for a rank that is alone.
    pub(super) fn split(&mut self, color: usize, key: usize) -> Result<Option<Self>, CommError> {
        let own = [color as u64, key as u64];
        let all = self.gather(Kind::Split, bytemuck::cast_slice(&own).to_vec())?;
        let members = self.members(color, &all)?;
        let position = members.iter().position(|rank| *rank == self.rank);
        let position = position.expect("a rank has its own color");
        let Some(transport) = T::split(self, &members)? else {
            return Ok(None);
        };
        let world = members.iter().map(|rank| self.world[*rank]).collect();
        let settings = Settings {
            observer: self.settings.observer.of_group(),
            ..self.settings.clone()
        };
        Self::join(position, world, transport, settings).map(Some)
    }

    /// The ranks of this group with this color, by key, then by rank.
    fn members(&self, color: usize, all: &[Vec<u8>]) -> Result<Vec<usize>, CommError> {
        let mut members = Vec::new();
        for (rank, message) in all.iter().enumerate() {
            let theirs: Vec<u64> = values_of(message).unwrap_or_default();
            let [their_color, key] = theirs[..] else {
                let problem = format!("expected a color and a key, got {} bytes", message.len());
                return Err(self.corrupt(rank, problem));
            };
            if their_color == color as u64 {
                members.push((key, rank));
            }
        }
        members.sort_unstable();
        Ok(members.into_iter().map(|(_, rank)| rank).collect())
    }
}
