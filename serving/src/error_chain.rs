//! An error with its causes in one line, for logs and answers.

use std::error::Error;

/// `error: its cause: the cause of that`, each cause once.
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_follow_the_error() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot load")]
        struct Outer(#[source] std::fmt::Error);
        let cause = std::fmt::Error.to_string();
        assert_eq!(
            error_chain(&Outer(std::fmt::Error)),
            format!("cannot load: {cause}")
        );
    }
}
