//! Charts as inline SVG: lines and bars, with axes, words for those who see no picture, and no script.

use std::fmt::Write;

use super::axes::{Frame, HEIGHT, WIDTH};

/// Points of a line at most: more cannot be seen.
const POINTS_MAX: usize = 600;
/// Points of a line, up to which each is marked.
const DOTS_MAX: usize = 24;
/// Lines that look different from each other; the next one looks like the first again.
const LOOKS: usize = 6;

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

/// Lines over common axes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Chart<'a> {
    /// What it shows.
    pub title: &'a str,
    /// What stands below.
    pub x: &'a str,
    /// What stands beside.
    pub y: &'a str,
    /// The lines.
    pub series: &'a [Series],
    /// Lines that the others are held against, dashed.
    pub limits: &'a [Series],
    /// Spans of x that are shaded, each `[from, to]`.
    pub spans: &'a [[f64; 2]],
    /// What the shaded spans are.
    pub spans_name: &'a str,
    /// Whether to draw where x and y are equal.
    pub diagonal: bool,
    /// The x that are shown at least.
    pub range: Option<[f64; 2]>,
}

/// Lines over common axes, and nothing else.
pub fn lines(title: &str, x: &str, y: &str, series: &[Series]) -> String {
    let chart = Chart {
        title,
        x,
        y,
        series,
        ..Chart::default()
    };
    chart.figure()
}

impl Chart<'_> {
    /// The chart with its title and its legend.
    pub fn figure(&self) -> String {
        let drawn = |series: &[Series]| -> Vec<Series> {
            let thin = series.iter().map(|series| thinned(series, POINTS_MAX));
            thin.filter(|series| !series.points.is_empty()).collect()
        };
        let (series, limits) = (drawn(self.series), drawn(self.limits));
        let all = || {
            let all = series.iter().chain(&limits);
            all.flat_map(|series| series.points.iter().copied())
        };
        let Some(first) = all().next() else {
            return empty(self.title);
        };
        let ends = self.range.into_iter().flatten().map(|x| [x, first[1]]);
        let Some(frame) = Frame::around(all().chain(ends)) else {
            return empty(self.title);
        };
        let mut body = String::new();
        for [x, width] in self.spans.iter().filter_map(|span| frame.span(*span)) {
            let [y, height] = frame.height();
            let _ = write!(
                body,
                r#"<rect class="span" x="{x:.1}" y="{y}" width="{width:.1}" height="{height}"/>"#
            );
        }
        body += &frame.axes(self.x, self.y);
        if self.diagonal {
            body += &frame.diagonal();
        }
        for limit in &limits {
            body += &polyline(&frame, limit, "limit", "limit");
        }
        for (place, series) in series.iter().enumerate() {
            let look = place % LOOKS;
            body += &polyline(&frame, series, &format!("s{look}"), &format!("d{look}"));
        }
        let words = self.words(&series, &limits);
        figure(self.title, &words, &body, &self.legend(&series, &limits))
    }

    /// The chart for those who do not see it.
    fn words(&self, series: &[Series], limits: &[Series]) -> String {
        let mut words: Vec<String> = series.iter().chain(limits).map(told).collect();
        match self.spans.len() {
            0 => {}
            1 => words.push(format!("{} once", self.spans_name)),
            times => words.push(format!("{} {times} times", self.spans_name)),
        }
        format!("{}: {}", self.title, words.join("; "))
    }

    fn legend(&self, series: &[Series], limits: &[Series]) -> String {
        let shaded = !self.spans.is_empty();
        if series.len() + limits.len() < 2 && !shaded {
            return String::new();
        }
        let key = |class: &str, name: &str| {
            format!(
                r#"<li><svg class="key" viewBox="0 0 28 8" aria-hidden="true"><polyline class="{class}" points="0,4 28,4"/></svg>{}</li>"#,
                escaped(name)
            )
        };
        let mut entries = String::new();
        for (place, series) in series.iter().enumerate() {
            entries += &key(&format!("s{}", place % LOOKS), &series.name);
        }
        // Both ends of a range have one name.
        let mut names: Vec<&str> = limits.iter().map(|limit| limit.name.as_str()).collect();
        names.dedup();
        entries.extend(names.into_iter().map(|name| key("limit", name)));
        if shaded {
            let name = escaped(self.spans_name);
            let _ = write!(
                entries,
                r#"<li><svg class="key" viewBox="0 0 28 8" aria-hidden="true"><rect class="span" width="28" height="8"/></svg>{name}</li>"#
            );
        }
        format!("<ul class=\"legend\">{entries}</ul>")
    }
}

fn polyline(frame: &Frame, series: &Series, line: &str, dot: &str) -> String {
    let mut out = String::new();
    let mut points = String::new();
    for point in &series.points {
        let [x, y] = frame.at(*point);
        let _ = write!(points, "{x:.1},{y:.1} ");
        // A line of one point is none.
        if series.points.len() <= DOTS_MAX && dot != "limit" || series.points.len() == 1 {
            let _ = write!(
                out,
                r#"<circle class="{dot}" cx="{x:.1}" cy="{y:.1}" r="3"/>"#
            );
        }
    }
    let points = points.trim_end();
    let _ = write!(out, r#"<polyline class="{line}" points="{points}"/>"#);
    out
}

/// What a line says.
fn told(series: &Series) -> String {
    let values = || series.points.iter().map(|[_, y]| *y);
    let name = &series.name;
    match (values().next(), values().next_back()) {
        (Some(first), Some(last)) if series.points.len() > 1 => {
            let (least, greatest) = values().fold((first, first), |(least, greatest), value| {
                (least.min(value), greatest.max(value))
            });
            let [first, last, least, greatest] = [first, last, least, greatest].map(number);
            format!("{name} from {first} to {last}, at least {least}, at most {greatest}")
        }
        (Some(only), _) => format!("{name} {}", number(only)),
        _ => name.clone(),
    }
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
    let known = bars
        .iter()
        .filter(|bar| bar.iter().all(|value| value.is_finite()));
    let words = match known.max_by(|a, b| a[2].total_cmp(&b[2])) {
        None => title.to_owned(),
        Some(highest) => {
            let [from, to, height] = highest.map(number);
            let count = bars.len();
            format!("{title}: {count} bars, the highest {height} from {from} to {to}")
        }
    };
    figure(title, &words, &body, "")
}

/// Finite points, evenly left out where there are more than `most`.
pub(super) fn thinned(series: &Series, most: usize) -> Series {
    let finite: Vec<[f64; 2]> = series
        .points
        .iter()
        .copied()
        .filter(|[x, y]| x.is_finite() && y.is_finite())
        .collect();
    let step = finite.len().div_ceil(most).max(1);
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

fn figure(title: &str, words: &str, body: &str, legend: &str) -> String {
    let (title, words) = (escaped(title), escaped(words));
    format!(
        r#"<figure><figcaption>{title}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{words}">{body}</svg>{legend}</figure>"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_keeps_its_points_inside_and_its_text_escaped() {
        let points = (0..5000)
            .map(|step| [f64::from(step), (f64::from(step) / 50.0).sin()])
            .collect();
        let series = [Series {
            name: "x".into(),
            points,
        }];
        let svg = lines("a <b>", "step", "loss", &series);
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
            assert!((0.0..=WIDTH).contains(&x) && (0.0..=HEIGHT).contains(&y));
        }
        assert!(lines("t", "x", "y", &[]).contains("No data"));
        assert!(bars("t", "x", "y", &[[0.0, 1.0, f64::NAN]]).contains("svg"));
    }

    #[test]
    fn a_chart_says_in_words_what_it_shows() {
        let line = |name: &str, values: &[f64]| Series {
            name: name.into(),
            points: values
                .iter()
                .enumerate()
                .map(|(x, y)| [x as f64, *y])
                .collect(),
        };
        let chart = Chart {
            title: "Errors",
            series: &[line("share", &[0.5, 2.0, 1.0])],
            limits: &[line("at most", &[1.5, 1.5, 1.5])],
            spans: &[[0.5, 1.5]],
            spans_name: "fires",
            ..Chart::default()
        };
        let figure = chart.figure();
        let words = "aria-label=\"Errors: share from 0.5000 to 1.00, at least 0.5000, at most 2.00; at most from 1.50 \
                     to 1.50, at least 1.50, at most 1.50; fires once\"";
        assert!(figure.contains(words), "{figure}");
        // Shaded within the picture, under the lines.
        let (shade, line) = (figure.find("class=\"span\""), figure.find("class=\"s0\""));
        assert!(shade < line && shade.is_some(), "{figure}");
    }
}
