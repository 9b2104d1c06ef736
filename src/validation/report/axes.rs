//! The frame of a chart: from values to places in the picture, and what stands at its edges.

use std::fmt::Write;

use super::chart::{escaped, number};

/// Width of a picture, in its own units.
pub(super) const WIDTH: f64 = 560.0;
/// Height of a picture.
pub(super) const HEIGHT: f64 = 240.0;
const LEFT: f64 = 62.0;
const BOTTOM: f64 = 36.0;
const TOP: f64 = 16.0;
const RIGHT: f64 = 22.0;
/// Spaces between the marks of an axis, about.
const SPACES: f64 = 4.0;

/// The values that a picture spans.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    low: [f64; 2],
    high: [f64; 2],
}

impl Frame {
    /// Around points; none where there is none that is finite.
    pub(super) fn around(points: impl Iterator<Item = [f64; 2]>) -> Option<Self> {
        let mut frame: Option<Self> = None;
        for point in points.filter(|[x, y]| x.is_finite() && y.is_finite()) {
            let frame = frame.get_or_insert(Self {
                low: point,
                high: point,
            });
            for (axis, value) in point.into_iter().enumerate() {
                frame.low[axis] = frame.low[axis].min(value);
                frame.high[axis] = frame.high[axis].max(value);
            }
        }
        let mut frame = frame?;
        for axis in 0..2 {
            if frame.low[axis] == frame.high[axis] {
                // Around a value in its own size.
                let room = match frame.low[axis].abs() {
                    0.0 => 1.0,
                    size => size / 2.0,
                };
                frame.high[axis] += room;
                frame.low[axis] -= if frame.low[axis] == 0.0 { 0.0 } else { room };
            }
        }
        Some(frame)
    }

    /// Where a point lies.
    pub(super) fn at(&self, point: [f64; 2]) -> [f64; 2] {
        let share =
            |axis: usize| (point[axis] - self.low[axis]) / (self.high[axis] - self.low[axis]);
        [
            LEFT + share(0) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - share(1) * (HEIGHT - BOTTOM - TOP),
        ]
    }

    /// The part of a span of x that lies in the picture: where it begins and how wide it is.
    pub(super) fn span(&self, [from, to]: [f64; 2]) -> Option<[f64; 2]> {
        let ends = [from.max(self.low[0]), to.min(self.high[0])];
        let [from, to] = ends.map(|x| self.at([x, self.low[1]])[0]);
        (to > from).then_some([from, to - from])
    }

    /// A rectangle from top to bottom.
    pub(super) fn height(&self) -> [f64; 2] {
        [TOP, HEIGHT - BOTTOM - TOP]
    }

    /// Where x and y are equal, as far as it is in the picture.
    pub(super) fn diagonal(&self) -> String {
        let (from, to) = (self.low[0].max(self.low[1]), self.high[0].min(self.high[1]));
        if from >= to {
            return String::new();
        }
        let ([x1, y1], [x2, y2]) = (self.at([from, from]), self.at([to, to]));
        format!(r#"<line class="even" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#)
    }

    /// Lines at round values, and the names of the axes.
    pub(super) fn axes(&self, x: &str, y: &str) -> String {
        let mut text = String::new();
        for (value, name) in marks(self.low[1], self.high[1]) {
            let [_, py] = self.at([self.low[0], value]);
            let _ = write!(
                text,
                r#"<line class="grid" x1="{LEFT}" y1="{py:.1}" x2="{:.1}" y2="{py:.1}"/><text class="y" x="{:.1}" y="{:.1}">{name}</text>"#,
                WIDTH - RIGHT,
                LEFT - 6.0,
                py + 4.0
            );
        }
        for (value, name) in marks(self.low[0], self.high[0]) {
            let [px, _] = self.at([value, self.low[1]]);
            let _ = write!(
                text,
                r#"<text class="x" x="{px:.1}" y="{:.1}">{name}</text>"#,
                HEIGHT - BOTTOM + 15.0
            );
        }
        if !x.is_empty() {
            let _ = write!(
                text,
                r#"<text class="x" x="{:.1}" y="{:.1}">{}</text>"#,
                WIDTH / 2.0,
                HEIGHT - 4.0,
                escaped(x)
            );
        }
        if !y.is_empty() {
            let y = escaped(y);
            let _ = write!(text, r#"<text class="t" x="{LEFT}" y="11">{y}</text>"#);
        }
        text
    }
}

/// Round values between two, and what they are called: 1, 2 or 5 times a power of ten apart.
fn marks(low: f64, high: f64) -> Vec<(f64, String)> {
    let space = (high - low) / SPACES;
    let power = 10f64.powf(space.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|times| times * power);
    // Whatever rounding makes of a space that is a step already.
    let step = steps.into_iter().find(|step| *step >= space * 0.999);
    let step = step.unwrap_or(space);
    let (first, last) = ((low / step - 1e-6).ceil(), (high / step + 1e-6).floor());
    // Where values differ by less than their own last digit, there is nothing round between them.
    if !(step.is_finite() && step > 0.0 && (0.0..=2.5 * SPACES).contains(&(last - first))) {
        return [low, high].map(|value| (value, number(value))).into();
    }
    let decimals = (-(step * 1.001).log10().floor()).max(0.0) as usize;
    let name = |value: f64| match value.abs() {
        size if decimals > 5 || size >= 1e6 => number(value),
        _ => format!("{value:.decimals$}"),
    };
    (0..=(last - first) as usize)
        .map(|place| (first + place as f64) * step)
        .map(|value| (value, name(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_round_and_inside() {
        let names = |low, high| -> Vec<String> {
            let marks = marks(low, high);
            marks.into_iter().map(|(_, name)| name).collect()
        };
        assert_eq!(names(0.0, 1.0), ["0.0", "0.5", "1.0"]);
        assert_eq!(names(0.0, 400.0), ["0", "100", "200", "300", "400"]);
        assert_eq!(names(0.612, 0.688), ["0.62", "0.64", "0.66", "0.68"]);
        assert_eq!(names(-23.0, 0.0), ["-20", "-10", "0"]);
        assert_eq!(
            names(0.0, 4e6),
            ["0", "1.00e6", "2.00e6", "3.00e6", "4.00e6"]
        );
        for (low, high) in [
            (0.0, 1e-300),
            (1e15, 1e15 + 0.25),
            (-1e300, 1e300),
            (3.0, 3.000_000_1),
        ] {
            let marks = marks(low, high);
            assert!(
                (1..=11).contains(&marks.len()),
                "{low} to {high}: {marks:?}"
            );
        }
    }
}
