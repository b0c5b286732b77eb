//! When everything is quiet: no open order, empty outboxes, no work but what waits for a person, no lag.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Result;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
};
use sqlx::{AssertSqlSafe, Connection as _};

use crate::{databases, topics};

const POLL: Duration = Duration::from_millis(250);
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a service listens to.
const LISTENS: [(&str, &[&str]); 3] =
    [("order", &["payment", "shipping"]), ("payment", &["order", "shipping"]), ("shipping", &["order", "payment"])];

/// What is still going on.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Unrest {
    /// Orders that have not ended and have no stuck reaction.
    pub open: i64,
    /// Rows of all outboxes.
    pub outbox: i64,
    /// Rows of all work tables that go on by themselves.
    pub work: i64,
    /// Rows of all work tables that wait for a person.
    pub stuck: i64,
    /// Messages that the groups have not settled.
    pub lag: i64,
}

impl Unrest {
    /// Whether nothing goes on.
    pub fn is_quiet(&self) -> bool {
        self.open <= 0 && self.outbox == 0 && self.work == 0 && self.lag == 0
    }
}

/// Looks until everything is quiet or `within` has passed; what was found last, and how long it took.
pub async fn wait(
    databases: &BTreeMap<String, String>,
    brokers: &str,
    groups: &BTreeMap<String, String>,
    within: Duration,
) -> Result<(Unrest, Duration)> {
    let begin = Instant::now();
    let mut clients = BTreeMap::new();
    for (name, group) in groups {
        clients.insert(name.clone(), topics::client(brokers, group)?);
    }
    loop {
        let mut unrest = tables(databases).await?;
        if unrest.is_quiet() {
            unrest.lag = tokio::task::block_in_place(|| lag(&clients))?;
        }
        if unrest.is_quiet() || begin.elapsed() > within {
            return Ok((unrest, begin.elapsed()));
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn tables(databases: &BTreeMap<String, String>) -> Result<Unrest> {
    let mut unrest = Unrest::default();
    let mut stuck_sagas = 0;
    for (name, url) in databases {
        let mut database = databases::connect(name, url).await?;
        let sql = format!(
            "SELECT (SELECT count(*) FROM {name}_outbox), (SELECT count(*) FROM {name}_work WHERE state <> 'stuck'),
                (SELECT count(*) FROM {name}_work WHERE state = 'stuck'),
                (SELECT count(DISTINCT saga) FROM {name}_work WHERE state = 'stuck')"
        );
        let counts: (i64, i64, i64, i64) = sqlx::query_as(AssertSqlSafe(sql)).fetch_one(&mut database).await?;
        unrest.outbox += counts.0;
        unrest.work += counts.1;
        unrest.stuck += counts.2;
        stuck_sagas += counts.3;
        if name == "order" {
            let sql = "SELECT count(*) FROM orders WHERE state NOT IN ('completed', 'cancelled')";
            let (open,): (i64,) = sqlx::query_as(sql).fetch_one(&mut database).await?;
            unrest.open += open;
        }
        database.close().await?;
    }
    // Which of the open ones are stuck is the checker's business; here it is enough that not more are open than stuck.
    unrest.open = (unrest.open - stuck_sagas).max(0);
    Ok(unrest)
}

fn lag(clients: &BTreeMap<String, BaseConsumer>) -> Result<i64> {
    let mut lag = 0;
    for (name, client) in clients {
        let listens = LISTENS.iter().find(|(service, _)| service == name).map_or(&[][..], |(_, topics)| *topics);
        let mut ends = topics::ends(client)?;
        ends.retain(|(topic, _), _| listens.contains(&topic.as_str()));
        let mut asked = TopicPartitionList::new();
        for (topic, partition) in ends.keys() {
            asked.add_partition(topic, *partition);
        }
        let committed = client.committed_offsets(asked, TIMEOUT)?;
        for ((topic, partition), end) in ends {
            let settled = match committed.find_partition(&topic, partition).map(|found| found.offset()) {
                Some(Offset::Offset(offset)) => offset,
                _ => 0,
            };
            lag += (end - settled).max(0);
        }
    }
    Ok(lag)
}
