use super::{Event, Gpu, Stream};
use crate::cuda::{executor::DeviceError, measured::Measured};

/// Marks before and behind each piece of work of a measurement. Marks are kept for the next.
#[derive(Debug)]
pub(super) struct Times {
    marks: Vec<Event>,
    work: Vec<Piece>,
}

#[derive(Debug)]
struct Piece {
    name: String,
    /// Its first mark; the second one follows.
    mark: usize,
    is_collective: bool,
}

impl Times {
    pub(super) fn new() -> Self {
        Self {
            marks: Vec::new(),
            work: Vec::new(),
        }
    }

    /// Marks the beginning of a piece of work in a stream.
    pub(super) fn begin(
        &mut self,
        stream: &Stream,
        name: String,
        is_collective: bool,
    ) -> Result<(), DeviceError> {
        let mark = 2 * self.work.len();
        while self.marks.len() < mark + 2 {
            self.marks.push(Event::timed(stream.gpu())?);
        }
        self.marks[mark].record(stream)?;
        self.work.push(Piece {
            name,
            mark,
            is_collective,
        });
        Ok(())
    }

    /// Marks the end of the piece that was begun last.
    pub(super) fn end(&self, stream: &Stream) -> Result<(), DeviceError> {
        match self.work.last() {
            Some(piece) => self.marks[piece.mark + 1].record(stream),
            None => Ok(()),
        }
    }

    /// What was measured, all of which is done.
    pub(super) fn take(&mut self, gpu: &Gpu) -> Result<Vec<Measured>, DeviceError> {
        gpu.bind()?;
        let mut measured = Vec::new();
        for piece in self.work.drain(..) {
            let [began, ended] = [&self.marks[piece.mark], &self.marks[piece.mark + 1]];
            measured.push(Measured {
                name: piece.name,
                began_us: self.marks[0].microseconds_to(began)?,
                took_us: began.microseconds_to(ended)?,
                is_collective: piece.is_collective,
            });
        }
        Ok(measured)
    }
}
