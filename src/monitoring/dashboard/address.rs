//! Addresses of pages: a path and what follows `?`.

use std::fmt::Write;

use streamrec_serving::http::SiteRequest;

/// The address of a request.
#[derive(Debug, Clone, Default)]
pub(super) struct Address {
    pub(super) path: String,
    pairs: Vec<(String, String)>,
}

impl Address {
    pub(super) fn of(request: &SiteRequest) -> Self {
        Self {
            path: decoded(&request.path, false),
            pairs: pairs(&request.query),
        }
    }

    /// The last value of a name, unless it is empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let mut found = self.pairs.iter().rev().filter(|(own, _)| own == name);
        found
            .next()
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    pub(super) fn number(&self, name: &str) -> Option<i64> {
        self.get(name)?.parse().ok()
    }

    /// What it asks for besides the hours.
    pub(super) fn others(&self) -> impl Iterator<Item = (&str, &str)> {
        let pairs = self
            .pairs
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        pairs.filter(|(name, value)| *name != "hours" && !value.is_empty())
    }

    /// A link to another page that looks at the same hours, unless it names its own.
    pub(super) fn link(&self, path: &str, pairs: &[(&str, &str)]) -> String {
        let mut link = path.to_owned();
        let own = self.get("hours").map(|hours| ("hours", hours));
        let own = own.filter(|_| pairs.iter().all(|(name, _)| *name != "hours"));
        let all = pairs.iter().copied().chain(own);
        for (place, (name, value)) in all.enumerate() {
            let _ = write!(
                link,
                "{}{name}={}",
                if place == 0 { '?' } else { '&' },
                encoded(value)
            );
        }
        link
    }
}

/// The pairs of a query or of a form.
pub(super) fn pairs(text: &str) -> Vec<(String, String)> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name, true), decoded(value, true))
    };
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(pair)
        .collect()
}

/// Percent-encoding, for a part of a path or a value of a query.
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte as char);
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn decoded(text: &str, is_query: bool) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let escaped = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (byte, escaped) {
            (b'%', Some(value)) => {
                out.push(value);
                rest = &after[2..];
                continue;
            }
            (b'+', _) if is_query => out.push(b' '),
            _ => out.push(byte),
        }
        rest = after;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        for text in ["plain", "a b&c=d/ü%", "100%", ""] {
            assert_eq!(decoded(&encoded(text), true), text);
        }
        assert_eq!(decoded("%zz%4", true), "%zz%4");
        let found = pairs("a=1+2&b=&a=%263&c");
        assert_eq!(found[0], ("a".to_owned(), "1 2".to_owned()));
        assert_eq!(found.len(), 4);
        let address = Address {
            path: "/".into(),
            pairs: found,
        };
        assert_eq!((address.get("a"), address.get("b")), (Some("&3"), None));
    }
}
