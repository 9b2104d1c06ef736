//! How groups come about: the world from the job, its parts by splitting.
//!
//! MPI makes a communicator while all ranks wait inside of it, for ever if one does not come. So that happens on a
//! thread of its own, and the others are waited for as everywhere.

use std::sync::mpsc::{Receiver, TryRecvError, channel};

use super::job::MpiJob;
use super::memory::Link;
use super::wire::Wire;
use crate::comm::call::Kind;
use crate::comm::messaging::{Engine, Refusal, Work};
use crate::comm::{CommError, Settings};

/// Connects this process with all others of the job.
pub(super) fn connect(job: &MpiJob, settings: Settings) -> Result<Engine<Wire>, CommError> {
    let (rank, world) = (job.rank(), (0..job.size()).collect());
    let link = Link::world().map_err(|refusal| CommError::Connect {
        rank,
        problem: refusal.problem,
    })?;
    let mut all = job.world().borrow_mut();
    let all = all.get_or_insert_with(|| {
        let wire = Wire::new(link, job.join());
        let mut all = Engine::new(rank, world, wire, settings.clone());
        all.takes_leave = false;
        all
    });
    all.settings = settings.clone();
    let link = all.run(Kind::Connect, |engine| {
        engine.greet(Kind::Connect)?;
        make_link(engine, 0, rank)
    })?;
    let wire = Wire::new(link, job.join());
    Ok(Engine::new(rank, all.world.clone(), wire, settings))
}

/// Makes the communicators of all groups; returns that of `members`.
pub(super) fn split(
    engine: &mut Engine<Wire>,
    members: &[usize],
) -> Result<Option<Wire>, CommError> {
    let own = engine.rank;
    let position = members.iter().position(|rank| *rank == own);
    let link = engine.run(Kind::Split, |engine| {
        engine.greet(Kind::Split)?;
        make_link(engine, members[0], position.unwrap_or(0))
    })?;
    let member = engine.transport.member.clone();
    Ok((members.len() > 1).then(|| Wire::new(link, member)))
}

/// A communicator of MPI for the ranks with the same color. All ranks of this group have met.
fn make_link(engine: &mut Engine<Wire>, color: usize, key: usize) -> Result<Link, CommError> {
    let (made, making) = channel();
    // The process must not exit, nor end MPI, while the thread is inside of it.
    let (link, member) = (engine.transport.link, engine.transport.member.clone());
    let thread = std::thread::Builder::new().name("comm-split".to_owned());
    let thread = thread.spawn(move || {
        // Whoever waited may have given up.
        let _ = made.send(link.split(color, key));
        drop(member);
    });
    thread.map_err(|error| CommError::Connect {
        rank: engine.world[engine.rank],
        problem: format!("cannot start a thread that splits a communicator: {error}"),
    })?;
    let mut work = Making {
        making,
        made: None,
        others: engine.others().collect(),
    };
    engine.complete(&mut work)?;
    Ok(work.made.expect("it is done"))
}

struct Making {
    making: Receiver<Result<Link, Refusal>>,
    made: Option<Link>,
    others: Vec<usize>,
}

impl Work<Wire> for Making {
    fn advance(&mut self, _engine: &mut Engine<Wire>) -> Result<bool, Refusal> {
        match self.making.try_recv() {
            Ok(made) => self.made = Some(made?),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => {
                return Err(Refusal::new(
                    "the thread that splits has panicked".to_owned(),
                ));
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
