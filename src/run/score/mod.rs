//! `streamrec score`: the scores of every row of some files, in a Parquet file.
//!
//! ```text
//! files ─► reader thread ─► scorer threads: convert ▸ encode ▸ forward ─► rows in their order ─► OUT
//!              └── waits while too many pieces are under way ◄────────────────────┘
//! ```

mod arguments;
mod model;
mod score_file;
mod source;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::ArrayRef;
use signal_hook::consts::{SIGINT, SIGTERM};
use streamrec_artifact::RawBatch;
use streamrec_serving::scorer::{Scorer, Scratch};

pub use self::arguments::ScoreArgs;
use self::model::Model;
use self::score_file::ScoreFile;
use self::source::{Piece, Rows, Source};
use super::RunError;
use crate::data::Batch;
use crate::data::in_order::in_order;
use crate::train::Progress;

pub(super) fn run(args: &ScoreArgs) -> Result<(), RunError> {
    let cancel = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&cancel))
            .map_err(RunError::other("cannot watch signals"))?;
    }
    let threads = match args.threads {
        Some(threads) => threads.get(),
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    let mut model = Model::open(args)?;
    let mut source = Source::open(args, &model, threads)?;
    refuse_input(args)?;
    let mut fields = source.key_fields().to_vec();
    fields.extend(model.score_fields());
    let mut file = ScoreFile::create(&args.out, fields, model.metadata(), args.overwrite)?;

    let mut total = 0;
    let mut progress = Progress::new("score", "rows", source.rows().unwrap_or(0));
    if let Some(first) = source.next()? {
        let scorer = model.scorer(&first)?;
        let recycler = source.recycler();
        let mut first = Some(first);
        let next = || {
            interrupted(&cancel)?;
            match first.take() {
                Some(first) => Ok(Some(first)),
                None => source.next(),
            }
        };
        let worker = || {
            let mut worker = Worker::new(&scorer);
            move |piece| worker.score(piece)
        };
        let mut seen = Seen::default();
        in_order(threads, next, worker, |scored: Scored| {
            interrupted(&cancel)?;
            file.write(&scored.keys, &scored.scores)?;
            seen.add(&scored.seen);
            total += scored.rows as u64;
            progress.at(total, String::new);
            if let Some(batch) = scored.batch {
                // The reader may have ended and want no more.
                let _ = recycler.send(batch);
            }
            Ok(())
        })?;
        model.report(&seen);
    }
    progress.finish();
    // A signal in the last moment still finds nothing under the name.
    interrupted(&cancel)?;
    file.finish()?;
    println!("{total} rows scored into {}", args.out.display());
    Ok(())
}

fn interrupted(cancel: &AtomicBool) -> Result<(), RunError> {
    if cancel.load(Ordering::Relaxed) {
        return Err(RunError::Interrupted);
    }
    Ok(())
}

/// The scores must not take the place of what they are scores of.
fn refuse_input(args: &ScoreArgs) -> Result<(), RunError> {
    let place = |path: &Path| path.canonicalize().ok();
    let out = place(&args.out);
    match args
        .input
        .iter()
        .find(|input| out.is_some() && place(input) == out)
    {
        Some(input) => Err(RunError::Usage(format!(
            "--out {} is the input; choose another --out",
            input.display()
        ))),
        None => Ok(()),
    }
}

/// A piece with its scores.
struct Scored {
    rows: usize,
    keys: Vec<ArrayRef>,
    /// `[rows, labels]`
    scores: Vec<f32>,
    seen: Seen,
    /// The memory of the rows, to be filled again.
    batch: Option<Batch>,
}

/// What was noticed in the rows.
#[derive(Debug, Default)]
struct Seen {
    /// For each input, values outside its range.
    out_of_range: Vec<u64>,
    not_a_number: u64,
}

impl Seen {
    fn add(&mut self, other: &Self) {
        self.out_of_range.resize(other.out_of_range.len(), 0);
        let counts = self.out_of_range.iter_mut().zip(&other.out_of_range);
        counts.for_each(|(all, own)| *all += own);
        self.not_a_number += other.not_a_number;
    }
}

/// What one scorer thread owns.
struct Worker<'a> {
    scorer: &'a Scorer,
    raw: RawBatch,
    scratch: Scratch,
}

impl<'a> Worker<'a> {
    fn new(scorer: &'a Scorer) -> Self {
        let inputs = &scorer.encoder().schema().inputs;
        Self {
            scorer,
            raw: RawBatch::new(inputs),
            scratch: Scratch::default(),
        }
    }

    fn score(&mut self, piece: Piece) -> Result<Scored, RunError> {
        let Piece { rows, keys, values } = piece;
        let failed = || RunError::other("the rows cannot be scored");
        let encoder = self.scorer.encoder();
        let mut out_of_range = vec![0; encoder.schema().inputs.len()];
        let mut count = |raw: &RawBatch| {
            encoder
                .count_out_of_range(raw, &mut out_of_range)
                .map_err(RunError::other("the rows do not fit the model"))
        };
        let (scores, batch) = match values {
            Rows::File(mut piece) => {
                piece.read(&mut self.raw)?;
                count(&self.raw)?;
                let scores = self.scorer.score(&self.raw, &mut self.scratch);
                (scores.map_err(failed())?, None)
            }
            Rows::Packed(batch) => {
                count(&batch.raw)?;
                let scores = self.scorer.score_encoded(&batch.encoded, &mut self.scratch);
                (scores.map_err(failed())?, Some(batch))
            }
        };
        // The last batch of a packed file is padded.
        let labels = encoder.schema().labels.len();
        let scores = scores[..rows * labels].to_vec();
        let not_a_number = scores.iter().filter(|score| score.is_nan()).count() as u64;
        Ok(Scored {
            rows,
            keys,
            scores,
            seen: Seen {
                out_of_range,
                not_a_number,
            },
            batch,
        })
    }
}
