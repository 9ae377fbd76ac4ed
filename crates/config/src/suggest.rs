//! "Did you mean": the nearest known word by edit distance.

/// Longer words are not compared: nobody mistypes a word of this length into another one, and the cost is quadratic.
const LONGEST_WORD: usize = 64;

/// The known word nearest to `wrong`, when it is near enough to be a plausible typing mistake.
pub fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = wrong.chars().count();
    if length > LONGEST_WORD {
        return None;
    }
    // One mistake per three letters, and one in short words: `lisen` -> `listen`, `ear` -> `era`.
    let allowed = (length + 1).max(3) / 3;
    known
        .into_iter()
        .filter(|word| word.chars().count() <= LONGEST_WORD)
        .map(|word| (distance(&wrong.to_lowercase(), &word.to_lowercase()), word))
        .filter(|(distance, word)| *distance <= allowed && *distance < word.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// Optimal string alignment distance: insertions, deletions, replacements and swaps of neighbours cost one each.
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    let mut rows = vec![vec![0_usize; right.len() + 1]; left.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=left.len() {
        for j in 1..=right.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(left[i - 1] != right[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[left.len()][right.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    const KNOWN: [&str; 4] = ["listen", "upstream", "timeouts", "era"];

    #[test]
    fn near_words_are_found() {
        assert_eq!(nearest("lisen", KNOWN), Some("listen"));
        assert_eq!(nearest("upstraem", KNOWN), Some("upstream"));
        assert_eq!(nearest("Timeout", KNOWN), Some("timeouts"));
        assert_eq!(nearest("ear", KNOWN), Some("era"));
    }

    #[test]
    fn far_words_and_huge_words_are_not() {
        assert_eq!(nearest("zzz", KNOWN), None);
        assert_eq!(nearest("a", ["b"]), None);
        assert_eq!(nearest(&"x".repeat(10_000), KNOWN), None);
    }
}
