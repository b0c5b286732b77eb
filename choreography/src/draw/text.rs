//! Names as the formats take them. Manifests come from elsewhere, so a name may hold anything.

use std::collections::BTreeSet;

/// On one line, without control characters: what a name is drawn as.
pub(super) fn line(name: &str) -> String {
    name.chars().map(|c| if c.is_control() || "\u{2028}\u{2029}".contains(c) { ' ' } else { c }).collect()
}

/// At most `most` characters, the last one an ellipsis where something is missing.
pub(super) fn clipped(name: &str, most: usize) -> String {
    let name = line(name);
    if name.chars().count() <= most { name } else { name.chars().take(most - 1).chain(['…']).collect() }
}

/// Between tags, and between the quotes of an attribute. XML has no way to say most control characters, so they are gone.
pub(super) fn xml(name: &str) -> String {
    let replaced = |c| match c {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '"' => "&quot;".to_owned(),
        '\'' => "&#39;".to_owned(),
        // No characters of XML 1.0, section 2.2.
        '\u{fffe}' | '\u{ffff}' => " ".to_owned(),
        c => c.to_string(),
    };
    line(name).chars().map(replaced).collect()
}

/// Anywhere in Mermaid where text may stand: what may have a meaning there is written as its number, `#59;`.
pub(super) fn mermaid(name: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || " -_.,/()!?+*'…⟲".contains(c);
    line(name).chars().map(|c| if plain(c) { c.to_string() } else { format!("#{};", u32::from(c)) }).collect()
}

/// Between the quotes of DOT, with the quotes.
pub(super) fn dot(name: &str) -> String {
    format!("\"{}\"", line(name).replace('\\', "\\\\").replace('"', "\\\""))
}

/// Identifiers for Mermaid and DOT: the name itself where it is a plain word, so that the text can be read, and each only once.
#[derive(Debug, Default)]
pub(super) struct Ids(BTreeSet<String>);

impl Ids {
    pub(super) fn unique(&mut self, name: &str) -> String {
        let word = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let mut id: String = name.chars().map(word).collect();
        if name.contains(|c: char| word(c) != c && c != '-') {
            id = id.split('_').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("_");
        }
        let letter = id.starts_with(|first: char| first.is_ascii_alphabetic());
        // `end` closes a block of Mermaid wherever it stands alone, and DOT has words of its own.
        let taken = ["end", "graph", "digraph", "subgraph", "node", "edge", "strict", "default", "style", "class"];
        if !letter || taken.contains(&id.to_ascii_lowercase().as_str()) || id.len() > 80 {
            id = format!("n_{}", id.chars().take(80).collect::<String>());
        }
        let mut unique = id.clone();
        for n in 2.. {
            if self.0.insert(unique.to_ascii_lowercase()) {
                break;
            }
            unique = format!("{id}_{n}");
        }
        unique
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_meaning_is_escaped() {
        let hostile = "a\"<b>&'\n; #x|{}\\%%";
        assert_eq!(xml(hostile), "a&quot;&lt;b&gt;&amp;&#39; ; #x|{}\\%%");
        assert_eq!(mermaid(hostile), "a#34;#60;b#62;#38;' #59; #35;x#124;#123;#125;#92;#37;#37;");
        assert_eq!(dot(hostile), "\"a\\\"<b>&' ; #x|{}\\\\%%\"");
        assert_eq!(clipped("abcdef", 4), "abc…");
    }

    #[test]
    fn identifiers_are_words_and_never_the_same() {
        let mut ids = Ids::default();
        let made = ["a-b", "a_b", "A.b", "end", "7", "é\n", ""].map(|name| ids.unique(name));
        assert_eq!(made, ["a_b", "a_b_2", "A_b_3", "n_end", "n_7", "n_", "n__2"]);
    }
}
