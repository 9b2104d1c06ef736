//! The name that somebody probably meant, for error messages.

/// Bytes of a name that is still compared: the work grows with them, and a stranger chooses them.
const GIVEN_BYTES_MAX: usize = 256;

/// The name closest to `given`, where one is close enough to be a slip of the pen.
pub(crate) fn nearest<'a>(
    given: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    if given.len() > GIVEN_BYTES_MAX {
        return None;
    }
    let limit = (given.chars().count() / 3).max(2);
    names
        .into_iter()
        .map(|name| (distance(given, name), name))
        .filter(|&(edits, _)| edits <= limit)
        .min()
        .map(|(_, name)| name)
}

/// `; did you mean ...?` where there is a near name.
pub(crate) fn suggestion(nearest: &Option<String>) -> String {
    nearest
        .as_ref()
        .map(|name| format!("; did you mean `{name}`?"))
        .unwrap_or_default()
}

/// The Levenshtein distance, row by row.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    let mut row = vec![0; b.len() + 1];
    for (i, x) in a.chars().enumerate() {
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let substituted = above[j] + usize::from(x != y);
            row[j + 1] = substituted.min(above[j + 1] + 1).min(row[j] + 1);
        }
        std::mem::swap(&mut above, &mut row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_found_and_a_stranger_is_not() {
        let names = ["user_id", "video_id", "duration"];
        assert_eq!(nearest("usr_id", names), Some("user_id"));
        assert_eq!(nearest("completely_else", names), None);
        let long = "user_id".repeat(40);
        assert_eq!(nearest(&long, [long.as_str()]), None, "too long to look");
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
