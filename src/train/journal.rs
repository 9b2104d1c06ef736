//! What a run writes of its progress: `metrics.jsonl` and TensorBoard event files. Rank 0 only.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use serde::Serialize;
use serde_json::{Map, Value};

use super::tensorboard::TensorBoard;

/// The journal of one run.
#[derive(Debug)]
pub struct Journal {
    lines: File,
    board: TensorBoard,
    started: Instant,
}

impl Journal {
    /// Opens the journal in the run's `folder`. An earlier one is continued after `step`: what was
    /// written of later steps is dropped, since they come again.
    ///
    /// # Errors
    /// When a file cannot be created.
    pub fn open(folder: &Path, step: u64) -> io::Result<Self> {
        let path = folder.join("metrics.jsonl");
        if path.exists() {
            drop_later(&path, step)?;
        }
        let lines = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self {
            lines,
            board: TensorBoard::create(&folder.join("tensorboard"), step)?,
            started: Instant::now(),
        })
    }

    /// Writes one record of `kind` (such as `train` or `valid/click`): every number of `record`
    /// becomes a field of the line and a scalar `kind/field`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&mut self, kind: &str, step: u64, record: &impl Serialize) -> io::Result<()> {
        let mut line = Map::new();
        line.insert("kind".into(), kind.into());
        line.insert("step".into(), step.into());
        line.insert(
            "elapsed_s".into(),
            self.started.elapsed().as_secs_f64().into(),
        );
        let mut scalars = Vec::new();
        if let Value::Object(fields) = serde_json::to_value(record)? {
            for (field, value) in fields {
                if let Some(number) = value.as_f64() {
                    scalars.push((format!("{kind}/{field}"), number));
                }
                line.insert(field, value);
            }
        }
        let mut text = serde_json::to_string(&line)?;
        text.push('\n');
        self.lines.write_all(text.as_bytes())?;
        self.board.scalars(step, &scalars)
    }
}

fn drop_later(path: &Path, step: u64) -> io::Result<()> {
    let of_line = |line: &str| -> Option<u64> {
        serde_json::from_str::<Value>(line)
            .ok()?
            .get("step")?
            .as_u64()
    };
    // A line cut short by a crash, perhaps inside a character, has no step, and goes too.
    let text = String::from_utf8_lossy(&std::fs::read(path)?).into_owned();
    let kept: String = text
        .split_inclusive('\n')
        .filter(|line| of_line(line).is_some_and(|of| of <= step))
        .collect();
    if kept.len() < text.len() {
        let temporary = path.with_extension("jsonl.tmp");
        let mut file = File::create(&temporary)?;
        file.write_all(kept.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Record {
        loss: f64,
        label: &'static str,
    }

    #[test]
    fn a_continued_journal_keeps_its_lines_up_to_the_step_it_continues_from() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let record = Record {
            loss: 0.25,
            label: "click",
        };
        let mut journal = Journal::open(folder.path(), 0).expect("opened");
        for step in [1, 2, 3] {
            journal.write("train", step, &record).expect("written");
        }
        let mut journal = Journal::open(folder.path(), 2).expect("opened again");
        journal
            .write(
                "train",
                3,
                &Record {
                    loss: 0.5,
                    label: "click",
                },
            )
            .expect("written");

        let text = std::fs::read_to_string(folder.path().join("metrics.jsonl")).expect("read");
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("a JSON line"))
            .collect();
        let steps: Vec<_> = lines.iter().map(|line| line["step"].as_u64()).collect();
        assert_eq!(steps, [Some(1), Some(2), Some(3)]);
        assert_eq!(
            (&lines[1]["loss"], &lines[2]["loss"]),
            (&0.25.into(), &0.5.into())
        );
        assert_eq!(lines[0]["label"], "click");
    }
}
