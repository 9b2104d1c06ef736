//! The beginning of a long text, for error messages.

use std::borrow::Cow;

/// The most bytes of a text that a message shows.
const BYTES_MAX: usize = 60;

/// `text`, or its beginning and `...` where it is long: what a stranger sends must not fill a log.
pub fn excerpt(text: &str) -> Cow<'_, str> {
    if text.len() <= BYTES_MAX {
        return Cow::Borrowed(text);
    }
    let begin = &text[..text.floor_char_boundary(BYTES_MAX)];
    Cow::Owned(format!("{begin}..."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let short = "a".repeat(60);
        assert_eq!(excerpt(&short), short);
        assert_eq!(excerpt(&"a".repeat(61)), format!("{short}..."));
        assert_eq!(
            excerpt(&"\u{20ac}".repeat(30)),
            format!("{}...", "\u{20ac}".repeat(20))
        );
        assert_eq!(
            excerpt(&format!("a{}", "\u{20ac}".repeat(30))).len(),
            1 + 19 * 3 + 3
        );
    }
}
