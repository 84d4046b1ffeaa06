//! "Did you mean": the nearest known word.

/// Edits that still count as a slip.
const EDITS: usize = 3;
/// Letters of a word that may be the beginning of a longer one.
const BEGINNING: usize = 3;
/// Longer words are not compared.
const LONGEST: usize = 64;

/// `; did you mean "x"?`, or nothing where no word is near.
pub(crate) fn did_you_mean(word: &str, known: &[&str]) -> String {
    if word.chars().count() > LONGEST {
        return String::new();
    }
    let near = known.iter().map(|known| (far(word, known), *known)).min();
    match near {
        Some((edits, known)) if edits <= EDITS && edits < known.len() => format!("; did you mean {known:?}?"),
        Some(_) | None => String::new(),
    }
}

/// A beginning counts as one slip.
fn far(word: &str, known: &str) -> usize {
    if word.len() >= BEGINNING && known.starts_with(word) { 1 } else { distance(word, known) }
}

/// Levenshtein's.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, letter) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], line + 1);
        for (column, against) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *against);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn slips_are_found_and_other_words_are_not() {
        assert_eq!(did_you_mean("stat", &["name", "state"]), "; did you mean \"state\"?");
        assert_eq!(did_you_mean("zzzzzzzz", &["name", "state"]), "");
        assert_eq!(did_you_mean("x", &["id"]), "");
        assert_eq!(did_you_mean("size", &["from", "size_mib"]), "; did you mean \"size_mib\"?");
    }
}
