//! Tables that scroll within themselves, and charts with their figures.

use std::fmt::Write;

use super::chart::{Series, escaped, number, thinned};

/// Rows of a chart's figures for each of its lines, about.
const FIGURES_MAX: usize = 100;

/// A table whose cells are HTML; numbers stand to the right, the first cell of a row names it.
pub fn table(caption: &str, head: &[&str], rows: &[Vec<String>]) -> String {
    // A region that scrolls sideways can be reached by keyboard.
    let name = escaped(caption);
    let mut out = format!(
        "<div class=\"wide\" role=\"region\" tabindex=\"0\" aria-label=\"{name}\"><table><caption>{name}</caption>\
         <thead><tr>"
    );
    for (place, name) in head.iter().enumerate() {
        let class = if is_number(rows, place) {
            " class=\"n\""
        } else {
            ""
        };
        let _ = write!(out, "<th scope=\"col\"{class}>{}</th>", escaped(name));
    }
    out += "</tr></thead><tbody>";
    for row in rows {
        out += "<tr>";
        for (place, cell) in row.iter().enumerate() {
            let _ = match place {
                0 => write!(out, "<th scope=\"row\">{cell}</th>"),
                _ if is_number(rows, place) => write!(out, "<td class=\"n\">{cell}</td>"),
                _ => write!(out, "<td>{cell}</td>"),
            };
        }
        out += "</tr>";
    }
    if rows.is_empty() {
        let _ = write!(out, "<tr><td colspan=\"{}\">None.</td></tr>", head.len());
    }
    out + "</tbody></table></div>"
}

/// Whether a column holds numbers, and not only gaps.
fn is_number(rows: &[Vec<String>], place: usize) -> bool {
    let number = |cell: &&String| cell.trim_end_matches(" %").parse::<f64>().is_ok();
    let mut cells = rows.iter().filter_map(|row| row.get(place));
    let is_told = cells.clone().any(|cell| number(&cell));
    place > 0 && is_told && cells.all(|cell| cell == "-" || number(&cell))
}

/// A picture with a table of its figures, which is closed at first.
pub fn with_figures(title: &str, picture: &str, head: &[&str], rows: &[Vec<String>]) -> String {
    let (name, id) = (escaped(title), anchor(title));
    let table = table(&format!("{title}, in figures"), head, rows);
    format!(
        "<div class=\"chart\">{picture}<details id=\"{id}\"><summary>Figures<span class=\"unseen\"> of {name}</span>\
         </summary>{table}</details></div>"
    )
}

/// A picture of lines with a table of their points; long lines are told by some of their points.
pub fn with_points(title: &str, picture: &str, x: &str, series: &[Series]) -> String {
    let mut rows: Vec<(f64, Vec<String>)> = Vec::new();
    for (place, one) in series.iter().enumerate() {
        for [at, value] in thinned(one, FIGURES_MAX).points {
            let known = rows.iter().position(|(own, _)| *own == at);
            let row = known.unwrap_or_else(|| {
                rows.push((at, vec!["-".to_owned(); series.len()]));
                rows.len() - 1
            });
            rows[row].1[place] = number(value);
        }
    }
    rows.sort_by(|a, b| a.0.total_cmp(&b.0));
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|(at, values)| [vec![plain(at)], values].concat())
        .collect();
    let mut head = vec![x];
    head.extend(series.iter().map(|one| one.name.as_str()));
    with_figures(title, picture, &head, &rows)
}

/// A number without decimals that say nothing.
fn plain(value: f64) -> String {
    if value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        number(value)
    }
}

/// A title as the name of a place in the page.
pub fn anchor(title: &str) -> String {
    let letter = |letter: char| match letter {
        letter if letter.is_alphanumeric() || letter == '_' => letter,
        _ => '-',
    };
    title.chars().map(letter).collect()
}
