//! Which rank is to blame: a pure function of what is known of all ranks.
//!
//! A rank that waits in a collective is a victim; the rank that others wait for is the cause. So:
//! 1. Ranks that ended badly are judged first ([`blame_exit`]). One whose failure names lost ranks is a victim of
//!    these; otherwise code 2 (bad configuration) weighs most, then a signal, then what came first.
//! 2. Among living ranks ([`blame_hang`]) one that fell silent, or failed and does not exit, is to blame; then one without progress outside any
//!    collective; then one that others, stalled in a collective, wait for although it has left or never came; and when
//!    all are stalled in collectives, the job is deadlocked.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cause::{Fault, RankStatus};
use crate::control::board::Seen;
use crate::control::{Collective, Ending};
use crate::job::Timing;
use crate::signals::STOP_SIGNALS;

/// How a rank ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Exit {
    Code(i32),
    Signal(i32),
    /// With the launcher of its host, of this number: nobody knows how.
    #[serde(skip)]
    Lost(usize),
}

impl Exit {
    /// Whether this is how a process ends that was asked to: with 128 + SIGTERM or SIGINT, after it saved.
    pub(crate) fn stopped_by(self) -> Option<i32> {
        match self {
            Self::Code(code) if STOP_SIGNALS.contains(&(code - 128)) => Some(code - 128),
            _ => None,
        }
    }

    pub(crate) fn fault(self) -> Fault {
        match self {
            Self::Code(code) => Fault::Exited(code),
            Self::Signal(signal) => Fault::Killed(signal),
            Self::Lost(node) => Fault::LostHost(node),
        }
    }
}

/// All that is known of one rank at one moment.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// How and when it ended.
    pub exit: Option<(Exit, Instant)>,
    /// Its last report.
    pub seen: Option<Seen>,
    /// Time since it was spawned.
    pub age: Duration,
}

impl RankStatus {
    /// What is known of a rank, to tell a person.
    pub(crate) fn of(view: &View) -> Self {
        let report = view.seen.as_ref().map(|seen| &seen.report);
        Self {
            step: report.map(|report| report.step),
            phase: report
                .map(|report| report.phase.clone())
                .unwrap_or_default(),
            collective: report.and_then(|report| report.collective.clone()),
            waiting_for: report
                .map(|report| report.waiting_for.clone())
                .unwrap_or_default(),
            exit: view.exit.map(|(exit, _)| exit.fault()),
        }
    }
}

impl View {
    fn alive(&self) -> bool {
        self.exit.is_none()
    }

    /// Ranks whose loss this one's failure message names.
    fn lost(&self) -> &[usize] {
        match self
            .seen
            .as_ref()
            .and_then(|seen| seen.report.ending.as_ref())
        {
            Some(Ending::Failed { lost, .. }) => lost,
            _ => &[],
        }
    }

    /// The collective it has been stalled in.
    fn stalled_in(&self, stuck_after: Duration) -> Option<&Collective> {
        let seen = self
            .seen
            .as_ref()
            .filter(|seen| self.alive() && seen.stalled_for >= stuck_after)?;
        seen.report.collective.as_ref()
    }
}

/// A rank and what it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blame {
    pub rank: usize,
    pub fault: Fault,
}

/// The rank to blame when some have ended badly.
pub(crate) fn blame_exit(ranks: &[View]) -> Option<Blame> {
    let failed = ranks
        .iter()
        .enumerate()
        .filter_map(|(rank, view)| match view.exit {
            Some((exit, when)) if exit != Exit::Code(0) && exit.stopped_by().is_none() => {
                Some((rank, exit, when))
            }
            _ => None,
        });
    let weight = |exit| match exit {
        Exit::Code(2) => 0,
        Exit::Signal(_) | Exit::Lost(_) => 1,
        Exit::Code(_) => 2,
    };
    let (rank, exit, _) = failed.min_by_key(|&(rank, exit, when)| {
        (!ranks[rank].lost().is_empty(), weight(exit), when, rank)
    })?;
    Some(own_or_lost(ranks, rank, exit.fault()))
}

/// Blames a rank for its own failure, unless that names a lost rank that lives, or that left in peace.
fn own_or_lost(ranks: &[View], rank: usize, fault: Fault) -> Blame {
    let lost = ranks[rank]
        .lost()
        .iter()
        .find_map(|&lost| ranks.get(lost).map(|view| (lost, view)));
    match lost {
        Some((lost, view)) if view.alive() => Blame {
            rank: lost,
            fault: Fault::GivenUp { by: rank },
        },
        Some((
            lost,
            View {
                exit: Some((Exit::Code(0), _)),
                ..
            },
        )) => Blame {
            rank: lost,
            fault: Fault::LeftEarly,
        },
        _ => Blame { rank, fault },
    }
}

/// The rank to blame when all that have ended did so well, but some no longer get on.
pub(crate) fn blame_hang(ranks: &[View], timing: &Timing) -> Option<Blame> {
    let alive = || ranks.iter().enumerate().filter(|(_, view)| view.alive());
    for (rank, view) in alive() {
        let Some(seen) = &view.seen else { continue };
        if seen.silent_for < timing.silent_after {
            continue;
        }
        match seen.report.ending {
            None => {
                return Some(Blame {
                    rank,
                    fault: Fault::Silent(seen.silent_for),
                });
            }
            Some(Ending::Failed { .. }) => {
                return Some(own_or_lost(ranks, rank, Fault::Lingers(seen.silent_for)));
            }
            // It need not report any more, only to exit.
            Some(Ending::Finished) => {}
        }
    }
    for (rank, view) in alive() {
        let Some(seen) = &view.seen else { continue };
        if seen.report.collective.is_none() && seen.stalled_for >= timing.stuck_after {
            return Some(Blame {
                rank,
                fault: Fault::Stuck(seen.stalled_for),
            });
        }
    }
    let stalled = || alive().filter(|(_, view)| view.stalled_in(timing.stuck_after).is_some());
    for (victim, _) in stalled() {
        for rank in waited_for(ranks, victim) {
            let fault = match &ranks[rank] {
                View {
                    exit: Some((Exit::Code(0), _)),
                    ..
                } => Fault::LeftEarly,
                View {
                    exit: None,
                    seen: None,
                    age,
                } if *age >= timing.stuck_after => Fault::NeverReported,
                _ => continue,
            };
            return Some(Blame { rank, fault });
        }
    }
    let (rank, view) = stalled()
        .next()
        .filter(|_| stalled().count() == alive().count())?;
    let stalled_for = view
        .seen
        .as_ref()
        .map_or(timing.stuck_after, |seen| seen.stalled_for);
    Some(Blame {
        rank,
        fault: Fault::Deadlock(stalled_for),
    })
}

/// The ranks that a rank inside a collective waits for: those it names, or all that are not in the same collective.
fn waited_for(ranks: &[View], victim: usize) -> Vec<usize> {
    let Some(report) = ranks[victim].seen.as_ref().map(|seen| &seen.report) else {
        return Vec::new();
    };
    if !report.waiting_for.is_empty() {
        return report
            .waiting_for
            .iter()
            .copied()
            .filter(|&rank| rank < ranks.len())
            .collect();
    }
    let elsewhere = |view: &View| {
        !view.alive()
            || view
                .seen
                .as_ref()
                .is_none_or(|seen| seen.report.collective != report.collective)
    };
    (0..ranks.len())
        .filter(|&rank| elsewhere(&ranks[rank]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Report;

    const LONG: Duration = Duration::from_secs(100);
    const SHORT: Duration = Duration::from_millis(10);

    /// A living rank: silent and stalled for the given times, in collective number `.2` and waiting for `.3`.
    fn alive(
        silent_for: Duration,
        stalled_for: Duration,
        collective: Option<u64>,
        waiting_for: &[usize],
    ) -> View {
        let report = Report {
            run_id: "job".into(),
            rank: 0,
            pid: 1,
            restart_count: 0,
            step: 3,
            phase: "forward".into(),
            progress: 5,
            collective: collective.map(|sequence| Collective {
                name: "all_reduce".into(),
                sequence,
            }),
            waiting_for: waiting_for.to_vec(),
            ending: None,
        };
        View {
            exit: None,
            seen: Some(Seen {
                report,
                silent_for,
                stalled_for,
            }),
            age: LONG,
        }
    }

    fn ended(mut view: View, exit: Exit, when: Instant) -> View {
        view.exit = Some((exit, when));
        view
    }

    fn failed(mut view: View, lost: &[usize]) -> View {
        if let Some(seen) = &mut view.seen {
            seen.report.ending = Some(Ending::Failed {
                message: "no".into(),
                lost: lost.to_vec(),
            });
        }
        view
    }

    fn well() -> View {
        alive(SHORT, SHORT, None, &[])
    }

    fn hang(ranks: &[View]) -> Option<Blame> {
        blame_hang(ranks, &Timing::default())
    }

    #[test]
    fn ranks_that_get_on_are_not_blamed() {
        assert_eq!(hang(&[well(), well()]), None);
        assert_eq!(
            blame_exit(&[well(), ended(well(), Exit::Code(0), Instant::now())]),
            None
        );
    }

    #[test]
    fn the_waiting_rank_is_a_victim_and_the_stuck_one_the_cause() {
        let waiting = alive(SHORT, LONG, Some(4), &[1]);
        let stuck = alive(SHORT, LONG, None, &[]);
        assert_eq!(
            hang(&[waiting, stuck]),
            Some(Blame {
                rank: 1,
                fault: Fault::Stuck(LONG)
            })
        );
    }

    #[test]
    fn a_rank_that_waits_for_one_that_gets_on_is_patient() {
        assert_eq!(hang(&[alive(SHORT, LONG, Some(4), &[1]), well()]), None);
    }

    #[test]
    fn a_silent_rank_is_blamed_before_those_that_wait() {
        let silent = alive(LONG, LONG, Some(4), &[]);
        assert_eq!(
            hang(&[alive(SHORT, LONG, Some(4), &[1]), silent]),
            Some(Blame {
                rank: 1,
                fault: Fault::Silent(LONG)
            })
        );
    }

    #[test]
    fn a_rank_that_failed_but_does_not_exit_is_blamed_or_whom_it_lost() {
        let lingering = failed(alive(LONG, LONG, Some(4), &[]), &[]);
        assert_eq!(
            hang(&[well(), lingering]),
            Some(Blame {
                rank: 1,
                fault: Fault::Lingers(LONG)
            })
        );
        let victim = failed(alive(LONG, LONG, Some(4), &[]), &[0]);
        assert_eq!(
            hang(&[well(), victim]),
            Some(Blame {
                rank: 0,
                fault: Fault::GivenUp { by: 1 }
            })
        );
    }

    #[test]
    fn a_rank_that_left_or_never_came_is_found_through_its_victims() {
        let left = ended(well(), Exit::Code(0), Instant::now());
        let victim = alive(SHORT, LONG, Some(4), &[]);
        assert_eq!(
            hang(&[victim.clone(), left]),
            Some(Blame {
                rank: 1,
                fault: Fault::LeftEarly
            })
        );
        let absent = View {
            exit: None,
            seen: None,
            age: LONG,
        };
        assert_eq!(
            hang(&[victim.clone(), absent]),
            Some(Blame {
                rank: 1,
                fault: Fault::NeverReported
            })
        );
        let young = View {
            exit: None,
            seen: None,
            age: SHORT,
        };
        assert_eq!(hang(&[victim, young]), None);
    }

    #[test]
    fn ranks_that_all_wait_are_deadlocked() {
        let ranks = [
            alive(SHORT, LONG, Some(4), &[1]),
            alive(SHORT, LONG, Some(5), &[0]),
        ];
        assert_eq!(
            hang(&ranks),
            Some(Blame {
                rank: 0,
                fault: Fault::Deadlock(LONG)
            })
        );
    }

    #[test]
    fn a_victim_that_exits_first_does_not_hide_the_cause() {
        let start = Instant::now();
        let victim = ended(failed(well(), &[1]), Exit::Code(1), start);
        let killed = ended(well(), Exit::Signal(9), start + SHORT);
        assert_eq!(
            blame_exit(&[victim.clone(), killed]),
            Some(Blame {
                rank: 1,
                fault: Fault::Killed(9)
            })
        );
        assert_eq!(
            blame_exit(&[victim.clone(), well()]),
            Some(Blame {
                rank: 1,
                fault: Fault::GivenUp { by: 0 }
            })
        );
        let left = ended(well(), Exit::Code(0), start);
        assert_eq!(
            blame_exit(&[victim, left]),
            Some(Blame {
                rank: 1,
                fault: Fault::LeftEarly
            })
        );
    }

    #[test]
    fn bad_configuration_weighs_more_than_a_signal_and_a_signal_more_than_a_code() {
        let start = Instant::now();
        let code = |code| ended(well(), Exit::Code(code), start);
        let signal = ended(well(), Exit::Signal(11), start + SHORT);
        assert_eq!(blame_exit(&[code(1), signal.clone()]).unwrap().rank, 1);
        assert_eq!(blame_exit(&[signal, code(2)]).unwrap().rank, 1);
        assert_eq!(
            blame_exit(&[ended(well(), Exit::Code(1), start + SHORT), code(7)])
                .unwrap()
                .rank,
            1
        );
    }
}
