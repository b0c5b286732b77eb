//! The long form of every code: what it means, an example, what it does in production, how to mend it.
//!
//! The texts are Markdown, one file per code, and everything that explains a code shows the same one: `saga explain`, SARIF, and
//! `docs/codes.md`.

use crate::{
    diff::ChangeCode,
    finding::{Code, Severity},
};

/// The sections that every text has, in their order.
pub const SECTIONS: [&str; 4] = ["What it means", "Example", "In production", "How to mend it"];

macro_rules! texts {
    ($($variant:ident $code:literal,)+) => {
        impl Code {
            /// Its explanation in Markdown, without a title: the sections of [`SECTIONS`].
            pub const fn explanation(self) -> &'static str {
                match self { $(Code::$variant => include_str!(concat!("explain/", $code, ".md"))),+ }
            }
        }
    };
}

texts! {
    Unpublished "SG001",
    Unheard "SG002",
    TwoPublishers "SG003",
    Disagreement "SG004",
    Schema "SG005",
    EndingsOfTwo "SG006",
    Uncompensated "SG007",
    DeadCompensation "SG008",
    NoGate "SG009",
    RejectsAfterPivot "SG010",
    TwoPivots "SG011",
    Cycle "SG012",
    NoEnding "SG013",
    TwoEndings "SG014",
    GroupClash "SG015",
    NoPatience "SG016",
    Unreached "SG017",
    SecondTrigger "SG018",
    CompensatedTooSoon "SG019",
    RawCancellation "SG020",
    CompensatedThoughCompleted "SG021",
    IllDeclared "SG022",
    NoStart "SG023",
    NotExplored "SG024",
}

impl Code {
    /// One section of its explanation, in Markdown, such as `What it means`; empty when there is none of that title.
    pub fn section(self, title: &str) -> &'static str {
        let sections = self.explanation().split("## ").skip(1);
        sections
            .filter_map(|section| section.split_once('\n'))
            .find(|(name, _)| *name == title)
            .map_or("", |(_, text)| text.trim())
    }
}

impl Severity {
    /// `error`, `warning`.
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }
}

/// One code, whole, in Markdown.
pub fn explain(code: Code) -> String {
    format!("# {code}: {} ({})\n\n{}", code.title(), code.severity().name(), code.explanation())
}

/// Every code on a line.
pub fn list() -> String {
    let line = |code: &Code| format!("{code}  {:<7}  {}\n", code.severity().name(), code.title());
    Code::ALL.iter().map(line).collect()
}

/// `docs/codes.md`: every code of a finding, whole, and every code of a change.
pub fn page() -> String {
    let mut page = "\
# What `saga verify` finds

Generated from the code, like `saga explain CODE`, which prints one of them. Events are written short in the examples, and what an
example needs no word about is left out. A code keeps its meaning for ever.

| code | severity | |
|---|---|---|
"
    .to_owned();
    for code in Code::ALL {
        let name = code.name();
        page += &format!("| [{name}](#{}) | {} | {} |\n", name.to_lowercase(), code.severity().name(), code.title());
    }
    for code in Code::ALL {
        let text = code.explanation().replace("## ", "### ");
        page += &format!("\n## {code}\n\n{} ({}).\n\n{text}", sentence(code.title()), code.severity().name());
    }
    page += "
# What `saga diff` finds

Each with its place and what to do. An error is unsafe for sagas under way; a warning is worth a thought.

| code | severity | |
|---|---|---|
";
    for code in ChangeCode::ALL {
        page += &format!("| {code} | {} | {} |\n", code.severity().name(), code.title());
    }
    page
}

fn sentence(title: &str) -> String {
    let mut letters = title.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_explained_in_the_same_sections() {
        for code in Code::ALL {
            let titles: Vec<&str> = code.explanation().lines().filter_map(|line| line.strip_prefix("## ")).collect();
            assert_eq!(titles, SECTIONS, "{code}");
            for title in SECTIONS {
                assert!(code.section(title).len() > 40, "{code} says too little of: {title}");
            }
            assert!(explain(*code).starts_with(&format!("# {code}: ")));
        }
    }
}
