//! The command that was given, once more as a shell takes it: what a refusal tells people to run instead.

/// The program by its whole path and the words it was given.
pub(super) fn words(asked: &[String]) -> Vec<String> {
    let program = std::env::current_exe().map_or("agent".to_owned(), |path| path.display().to_string());
    std::iter::once(program.as_str()).chain(asked.iter().skip(1).map(String::as_str)).map(quoted).collect()
}

/// A word as a shell takes it.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::{quoted, words};

    #[test]
    fn words_are_quoted_where_a_shell_would_change_them() {
        let check = |word: &str, expected: &str| assert_eq!(quoted(word), expected);
        check("--config=/etc/a.yaml", "--config=/etc/a.yaml");
        check("m 1", "'m 1'");
        check("it's", "'it'\\''s'");
        check("", "''");
        let asked = ["agent", "mark", "--target", "a b"].map(str::to_owned);
        assert_eq!(words(&asked)[1..], ["mark", "--target", "'a b'"]);
    }
}
