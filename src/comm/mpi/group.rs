//! How groups come about: the world from the job, its parts by splitting.
//!
//! MPI makes a communicator while all ranks wait inside of it, for ever if one does not come. So that happens on a
//! thread of its own, and the others are waited for as everywhere.

use std::sync::mpsc::{Receiver, TryRecvError, channel};

use super::engine::{Engine, Work};
use super::job::MpiJob;
use super::memory::{Link, Refusal};
use crate::comm::call::{Call, Kind};
use crate::comm::typed::values_of;
use crate::comm::{CommError, Settings};

/// Connects this process with all others of the job.
pub(super) fn connect(job: &MpiJob, settings: Settings) -> Result<Engine, CommError> {
    let (rank, world) = (job.rank(), (0..job.size()).collect());
    let link = Link::world().map_err(|refusal| CommError::Connect {
        rank,
        problem: refusal.0,
    })?;
    let mut all = job.world().borrow_mut();
    let all = all.get_or_insert_with(|| {
        let mut all = Engine::new(rank, world, link, job.join(), settings.clone());
        all.is_ours = false;
        all
    });
    all.settings = settings.clone();
    let link = all.run(Kind::Connect, |engine| {
        engine.meet(Call::new(Kind::Connect), |_| &[])?;
        engine.make_link(0, rank)
    })?;
    Ok(Engine::new(
        rank,
        all.world.clone(),
        link,
        job.join(),
        settings,
    ))
}

impl Engine {
    /// Splits the group by color. `None` for a rank that is alone.
    pub(super) fn split(&mut self, color: usize, key: usize) -> Result<Option<Self>, CommError> {
        let own = [color as u64, key as u64];
        let all = self.gather(Kind::Split, bytemuck::cast_slice(&own).to_vec())?;
        let members = self.members(color, &all)?;
        let position = members.iter().position(|rank| *rank == self.rank);
        let position = position.expect("a rank has its own color");
        let link = self.run(Kind::Split, |engine| {
            engine.meet(Call::new(Kind::Split), |_| &[])?;
            engine.make_link(members[0], position)
        })?;
        if members.len() == 1 {
            return Ok(None);
        }
        let world = members.iter().map(|rank| self.world[*rank]).collect();
        let settings = Settings {
            observer: self.settings.observer.of_group(),
            ..self.settings.clone()
        };
        let member = self.member.clone();
        Ok(Some(Self::new(position, world, link, member, settings)))
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

    /// A communicator of MPI for the ranks with the same color. All ranks of this group have met.
    fn make_link(&mut self, color: usize, key: usize) -> Result<Link, CommError> {
        let (made, making) = channel();
        // The process must not exit, nor end MPI, while the thread is inside of it.
        let (link, member) = (self.link, self.member.clone());
        let thread = std::thread::Builder::new().name("comm-split".to_owned());
        let thread = thread.spawn(move || {
            // Whoever waited may have given up.
            let _ = made.send(link.split(color, key));
            drop(member);
        });
        thread.map_err(|error| CommError::Connect {
            rank: self.world[self.rank],
            problem: format!("cannot start a thread that splits a communicator: {error}"),
        })?;
        let mut work = Making {
            making,
            made: None,
            others: self.others().collect(),
        };
        self.complete(&mut work)?;
        Ok(work.made.expect("it is done"))
    }
}

struct Making {
    making: Receiver<Result<Link, Refusal>>,
    made: Option<Link>,
    others: Vec<usize>,
}

impl Work for Making {
    fn advance(&mut self, _engine: &Engine) -> Result<bool, Refusal> {
        match self.making.try_recv() {
            Ok(made) => self.made = Some(made?),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => {
                return Err(Refusal("the thread that splits has panicked".to_owned()));
            }
        }
        Ok(self.made.is_some())
    }

    fn is_done(&self) -> bool {
        self.made.is_some()
    }

    /// They have come, and MPI does not tell who is late since.
    fn missing(&self) -> Vec<usize> {
        self.others.clone()
    }
}
