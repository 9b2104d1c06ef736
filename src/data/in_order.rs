//! Pieces through several threads, and out again in their order.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};

/// Pieces under way for each thread: one that it works on, one that waits for it, and one that
/// waits for its turn.
const PIECES_A_THREAD: usize = 3;

/// The result of a piece, with the piece's number.
type Numbered<R, E> = (u64, Result<R, E>);

/// Gives each piece of `next`, which runs on a thread of its own, to one of `threads` workers, and
/// their results in the order of the pieces to `take`, on the calling thread. What is in memory is
/// bounded, whoever is slow.
///
/// # Errors
/// The first one, in the order of the pieces; what comes after it is dropped.
pub fn in_order<T, R, E, W>(
    threads: usize,
    next: impl FnMut() -> Result<Option<T>, E> + Send,
    worker: impl Fn() -> W + Sync,
    mut take: impl FnMut(R) -> Result<(), E>,
) -> Result<(), E>
where
    T: Send,
    R: Send,
    E: Send,
    W: FnMut(T) -> Result<R, E>,
{
    let threads = threads.max(1);
    let (permits, returned) = sync_channel::<()>(PIECES_A_THREAD * threads);
    let (pieces, waiting) = channel();
    let waiting = Mutex::new(waiting);
    let (results, finished) = channel();
    std::thread::scope(|scope| {
        scope.spawn(move || read(next, &permits, &pieces));
        for _ in 0..threads {
            let (worker, waiting, results) = (&worker, &waiting, results.clone());
            scope.spawn(move || work(worker(), waiting, &results));
        }
        drop(results);
        let taken = sorted(&finished, |result| {
            let taken = take(result);
            // The reader may have ended.
            let _ = returned.recv();
            taken
        });
        // Whoever still works finds nobody to work for, and ends.
        drop((finished, returned));
        taken
    })
}

fn read<T, E>(
    mut next: impl FnMut() -> Result<Option<T>, E>,
    permits: &SyncSender<()>,
    pieces: &Sender<Numbered<T, E>>,
) {
    for number in 0.. {
        let Some(piece) = next().transpose() else {
            return;
        };
        let failed = piece.is_err();
        let nobody = permits.send(()).is_err() || pieces.send((number, piece)).is_err();
        if failed || nobody {
            return;
        }
    }
}

fn work<T, R, E>(
    mut work: impl FnMut(T) -> Result<R, E>,
    waiting: &Mutex<Receiver<Numbered<T, E>>>,
    results: &Sender<Numbered<R, E>>,
) {
    loop {
        let next = waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv();
        let Ok((number, piece)) = next else {
            return;
        };
        let result = piece.and_then(&mut work);
        if results.send((number, result)).is_err() {
            return;
        }
    }
}

/// Gives the results to `take` in the order of their numbers, until one is an error.
fn sorted<R, E>(
    finished: &Receiver<Numbered<R, E>>,
    mut take: impl FnMut(R) -> Result<(), E>,
) -> Result<(), E> {
    let mut early = BTreeMap::new();
    let mut next = 0;
    for (number, result) in finished {
        early.insert(number, result);
        while let Some(result) = early.remove(&next) {
            take(result?)?;
            next += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Pieces 0 to 999, each doubled by one of 4 threads that take their time; those `fail` names fail.
    fn doubled(fail: &[u64], taken: &mut Vec<u64>) -> Result<(), u64> {
        let mut piece = 0;
        let most = AtomicUsize::new(0);
        let under_way = AtomicUsize::new(0);
        let next = || {
            let now = 1 + under_way.fetch_add(1, Ordering::Relaxed);
            most.fetch_max(now, Ordering::Relaxed);
            piece += 1;
            Ok((piece <= 1000).then_some(piece - 1))
        };
        let double = || {
            |piece: u64| {
                if piece.is_multiple_of(7) {
                    std::thread::sleep(std::time::Duration::from_micros(200));
                }
                if fail.contains(&piece) {
                    Err(piece)
                } else {
                    Ok(2 * piece)
                }
            }
        };
        let outcome = in_order(4, next, double, |result| {
            under_way.fetch_sub(1, Ordering::Relaxed);
            taken.push(result);
            Ok(())
        });
        assert!(most.into_inner() <= 4 * PIECES_A_THREAD + 2);
        outcome
    }

    #[test]
    fn results_come_in_the_order_of_the_pieces() {
        let mut taken = Vec::new();
        assert_eq!(doubled(&[], &mut taken), Ok(()));
        assert_eq!(taken, (0..1000).map(|piece| 2 * piece).collect::<Vec<_>>());
    }

    #[test]
    fn the_first_error_ends_it_and_what_came_before_is_kept() {
        let mut taken = Vec::new();
        assert_eq!(doubled(&[403, 400], &mut taken), Err(400));
        assert_eq!(taken.len(), 400);
    }

    #[test]
    fn an_error_of_the_taker_ends_everybody() {
        let mut piece = 0;
        let next = || {
            piece += 1;
            Ok::<_, u64>(Some(piece))
        };
        let outcome = in_order(
            2,
            next,
            || Ok,
            |piece: u64| if piece > 9 { Err(piece) } else { Ok(()) },
        );
        assert_eq!(outcome, Err(10));
    }
}
