//! Charts as inline SVG: lines and bars, with axes, titles for screen readers, and no script.

use std::fmt::Write;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 56.0;
const BOTTOM: f64 = 30.0;
const TOP: f64 = 12.0;
const RIGHT: f64 = 12.0;
/// Points of a line at most: more cannot be seen.
const POINTS_MAX: usize = 600;

/// Points of a line, up to which each is marked.
const DOTS_MAX: usize = 24;

/// A line of points.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What it is.
    pub name: String,
    /// Its points; those that are not finite are left out.
    pub points: Vec<[f64; 2]>,
}

/// Text as HTML.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// A number as people read it.
pub fn number(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "-".into(),
        0.0 => "0".into(),
        size if !(1e-3..1e6).contains(&size) => format!("{value:.2e}"),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// Lines over common axes; `diagonal` draws where x and y are equal.
pub fn lines(title: &str, x: &str, y: &str, series: &[Series], diagonal: bool) -> String {
    lines_over(title, x, y, series, diagonal, None)
}

/// As [`lines`], over at least the x from `low` to `high`.
pub fn lines_over(
    title: &str,
    x: &str,
    y: &str,
    series: &[Series],
    diagonal: bool,
    range: Option<[f64; 2]>,
) -> String {
    let series: Vec<Series> = series
        .iter()
        .map(thinned)
        .filter(|series| !series.points.is_empty())
        .collect();
    let all = || {
        series
            .iter()
            .flat_map(|series| series.points.iter().copied())
    };
    let Some(first) = all().next() else {
        return empty(title);
    };
    let ends = range.into_iter().flatten().map(|x| [x, first[1]]);
    let Some(frame) = Frame::around(all().chain(ends)) else {
        return empty(title);
    };
    let mut body = frame.axes(x, y);
    if diagonal {
        let (from, to) = (frame.at([0.0, 0.0]), frame.at([1.0, 1.0]));
        let _ = write!(
            body,
            r#"<line class="even" x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}"/>"#,
            from[0], from[1], to[0], to[1]
        );
    }
    for (place, series) in series.iter().enumerate() {
        let mut points = String::new();
        for point in &series.points {
            let [x, y] = frame.at(*point);
            let _ = write!(points, "{x:.1},{y:.1} ");
            // A line of one point is none.
            if series.points.len() <= DOTS_MAX {
                let class = place % 6;
                let _ = write!(
                    body,
                    r#"<circle class="d{class}" cx="{x:.1}" cy="{y:.1}" r="3"/>"#
                );
            }
        }
        let _ = write!(
            body,
            r#"<polyline class="s{}" points="{}"/>"#,
            place % 6,
            points.trim_end()
        );
    }
    figure(title, &body, &legend(&series))
}

/// Bars side by side, each `[from, to, height]`.
pub fn bars(title: &str, x: &str, y: &str, bars: &[[f64; 3]]) -> String {
    let corners = bars
        .iter()
        .flat_map(|[from, to, height]| [[*from, 0.0], [*to, *height]]);
    let Some(frame) = Frame::around(corners) else {
        return empty(title);
    };
    let mut body = frame.axes(x, y);
    for [from, to, height] in bars {
        let (low, high) = (frame.at([*from, 0.0]), frame.at([*to, *height]));
        let _ = write!(
            body,
            r#"<rect class="b" x="{:.1}" y="{:.1}" width="{:.1}" height="{:.1}"/>"#,
            low[0],
            high[1],
            (high[0] - low[0] - 0.5).max(0.5),
            (low[1] - high[1]).max(0.0)
        );
    }
    figure(title, &body, "")
}

/// Finite points, evenly left out where there are too many.
fn thinned(series: &Series) -> Series {
    let finite: Vec<[f64; 2]> = series
        .points
        .iter()
        .copied()
        .filter(|[x, y]| x.is_finite() && y.is_finite())
        .collect();
    let step = finite.len().div_ceil(POINTS_MAX).max(1);
    let last = finite.last().copied();
    let mut points: Vec<[f64; 2]> = finite.into_iter().step_by(step).collect();
    if let Some(last) = last.filter(|last| points.last() != Some(last)) {
        points.push(last);
    }
    Series {
        name: series.name.clone(),
        points,
    }
}

fn empty(title: &str) -> String {
    format!(
        "<figure><figcaption>{}</figcaption><p>No data.</p></figure>",
        escaped(title)
    )
}

fn figure(title: &str, body: &str, legend: &str) -> String {
    let title = escaped(title);
    format!(
        r#"<figure><figcaption>{title}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">{body}</svg>{legend}</figure>"#
    )
}

fn legend(series: &[Series]) -> String {
    if series.len() < 2 {
        return String::new();
    }
    let entry = |(place, series): (usize, &Series)| {
        format!(
            r#"<li><span class="k{}"></span>{}</li>"#,
            place % 6,
            escaped(&series.name)
        )
    };
    format!(
        "<ul class=\"legend\">{}</ul>",
        series.iter().enumerate().map(entry).collect::<String>()
    )
}

/// From values to places in the picture.
struct Frame {
    low: [f64; 2],
    high: [f64; 2],
}

impl Frame {
    fn around(points: impl Iterator<Item = [f64; 2]>) -> Option<Self> {
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

    fn at(&self, point: [f64; 2]) -> [f64; 2] {
        let share =
            |axis: usize| (point[axis] - self.low[axis]) / (self.high[axis] - self.low[axis]);
        [
            LEFT + share(0) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - share(1) * (HEIGHT - BOTTOM - TOP),
        ]
    }

    fn axes(&self, x: &str, y: &str) -> String {
        let mut text = String::new();
        for step in 0..=4 {
            let share = f64::from(step) / 4.0;
            let value = |axis: usize| self.low[axis] + share * (self.high[axis] - self.low[axis]);
            let [px, py] = self.at([value(0), value(1)]);
            let _ = write!(
                text,
                r#"<line class="grid" x1="{LEFT}" y1="{py:.1}" x2="{:.1}" y2="{py:.1}"/>"#,
                WIDTH - RIGHT
            );
            let _ = write!(
                text,
                r#"<text class="y" x="{:.1}" y="{:.1}">{}</text>"#,
                LEFT - 6.0,
                py + 4.0,
                number(value(1))
            );
            let _ = write!(
                text,
                r#"<text class="x" x="{px:.1}" y="{:.1}">{}</text>"#,
                HEIGHT - BOTTOM + 14.0,
                number(value(0))
            );
        }
        let _ = write!(
            text,
            r#"<text class="x" x="{:.1}" y="{:.1}">{}</text>"#,
            WIDTH / 2.0,
            HEIGHT - 3.0,
            escaped(x)
        );
        let _ = write!(
            text,
            r#"<text class="t" x="{LEFT}" y="10">{}</text>"#,
            escaped(y)
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_keeps_its_points_inside_and_its_text_escaped() {
        let points = (0..5000)
            .map(|step| [f64::from(step), (f64::from(step) / 50.0).sin()])
            .collect();
        let svg = lines(
            "a <b>",
            "step",
            "loss",
            &[Series {
                name: "x".into(),
                points,
            }],
            false,
        );
        assert!(svg.contains("a &lt;b&gt;") && !svg.contains("<b>"));
        let coordinates = svg
            .split("points=\"")
            .nth(1)
            .and_then(|rest| rest.split('"').next())
            .unwrap();
        let pairs: Vec<&str> = coordinates.split(' ').collect();
        assert!(pairs.len() <= POINTS_MAX + 1);
        for pair in pairs {
            let (x, y) = pair.split_once(',').unwrap();
            let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
            assert!((LEFT..=WIDTH).contains(&x) && (0.0..=HEIGHT).contains(&y));
        }
        assert!(lines("t", "x", "y", &[], false).contains("No data"));
        assert!(bars("t", "x", "y", &[[0.0, 1.0, f64::NAN]]).contains("svg"));
    }
}
