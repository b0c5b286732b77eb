//! Which participants, and where their tables are.

use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use saga_core::store::Store;

/// What every command is told.
#[derive(Debug, Args)]
pub(crate) struct Databases {
    /// NAME=URL for each participant; or a URL alone, with --participant
    ///
    /// URLs are postgres://USER@HOST/DATABASE or sqlite:FILE. In the environment, which keeps
    /// passwords out of the list of processes, several are separated by spaces.
    #[arg(
        long,
        env = "SAGA_DATABASE",
        hide_env_values = true,
        value_name = "NAME=URL",
        value_delimiter = ' ',
        global = true,
        help_heading = "Participants",
        verbatim_doc_comment
    )]
    database: Vec<String>,
    /// Only this participant of those that --database names; may be repeated
    #[arg(long, value_name = "NAME", global = true, help_heading = "Participants")]
    participant: Vec<String>,
}

/// A participant's tables.
#[derive(Debug)]
pub(crate) struct Participant {
    pub(crate) name: String,
    pub(crate) store: Store,
}

impl Databases {
    /// Connects to every participant that is asked for. Errors never show a URL, which may hold a password.
    pub(crate) async fn open(&self) -> anyhow::Result<Vec<Participant>> {
        let mut participants = Vec::new();
        for (name, url) in self.pairs()? {
            is_there(&url).with_context(|| format!("the database of {name} cannot be opened"))?;
            let store = Store::connect(&url, &name).await;
            let store = store.with_context(|| format!("the database of {name} cannot be opened"))?;
            store.check().await.with_context(|| {
                format!("the tables of {name} cannot be used; is {name} the participant's name, and this its database?")
            })?;
            participants.push(Participant { name, store });
        }
        Ok(participants)
    }

    fn pairs(&self) -> anyhow::Result<Vec<(String, String)>> {
        ensure!(
            self.database.iter().any(|given| !given.is_empty()),
            "which database? Set SAGA_DATABASE, or --database, to NAME=URL, such as payment=postgres://saga@db/payment"
        );
        let mut pairs = Vec::new();
        for given in self.database.iter().filter(|given| !given.is_empty()) {
            if ["postgres:", "postgresql:", "sqlite:"].iter().any(|scheme| given.starts_with(scheme)) {
                ensure!(
                    !self.participant.is_empty(),
                    "whose database is it? Add --participant NAME, or write NAME=URL"
                );
                pairs.extend(self.participant.iter().map(|name| (name.clone(), given.clone())));
            } else if let Some((name, url)) = given.split_once('=') {
                if self.participant.is_empty() || self.participant.iter().any(|wanted| wanted == name) {
                    pairs.push((name.to_owned(), url.to_owned()));
                }
            } else {
                bail!("--database (SAGA_DATABASE) is neither NAME=URL nor a URL of postgres: or sqlite:");
            }
        }
        if let Some(name) = self.participant.iter().find(|wanted| !pairs.iter().any(|(name, _)| name == *wanted)) {
            bail!("--participant {name} is none of those that --database (SAGA_DATABASE) names");
        }
        Ok(pairs)
    }
}

/// A participant creates the file that it is told; here a mistyped path would become an empty database.
pub(crate) fn is_there(url: &str) -> anyhow::Result<()> {
    let Some(rest) = url.strip_prefix("sqlite:") else { return Ok(()) };
    let path = rest.trim_start_matches("//").split('?').next().unwrap_or_default();
    ensure!(path != ":memory:", "a database in memory belongs to its process; nobody else can look into it");
    ensure!(
        Path::new(path).is_file(),
        "there is no file {path:?} here; a relative path begins at the current directory"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(database: &[&str], participant: &[&str]) -> Result<Vec<(String, String)>, String> {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let databases = Databases { database: owned(database), participant: owned(participant) };
        databases.pairs().map_err(|error| error.to_string())
    }

    #[test]
    fn databases_are_named() {
        let pair = |name: &str, url: &str| (name.to_owned(), url.to_owned());
        let two = ["order=sqlite:o.db", "payment=postgres://u@h/p?a=b"];
        assert_eq!(pairs(&two, &[]), Ok(vec![pair("order", "sqlite:o.db"), pair("payment", "postgres://u@h/p?a=b")]));
        assert_eq!(pairs(&two, &["payment"]), Ok(vec![pair("payment", "postgres://u@h/p?a=b")]));
        assert_eq!(
            pairs(&["sqlite:x?a=b"], &["a", "b"]),
            Ok(vec![pair("a", "sqlite:x?a=b"), pair("b", "sqlite:x?a=b")])
        );
    }

    #[test]
    fn an_error_names_the_fix_and_no_secret() {
        let refused = |database: &[&str], participant: &[&str]| pairs(database, participant).unwrap_err();
        assert!(refused(&[], &[]).contains("SAGA_DATABASE"));
        assert!(refused(&["postgres://u:hunter2@h/p"], &[]).contains("--participant"));
        assert!(refused(&["order=sqlite:o.db"], &["ordre"]).contains("ordre"));
        for refused in [refused(&["postgres://u:hunter2@h/p"], &[]), refused(&["hunter2"], &["a"])] {
            assert!(!refused.contains("hunter2"), "{refused}");
        }
        assert!(is_there("sqlite:no-such.db").unwrap_err().to_string().contains("no-such.db"));
        assert!(is_there("sqlite::memory:").is_err());
    }
}
