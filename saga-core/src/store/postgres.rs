//! The tables on Postgres.
use super::*;
use uuid::Uuid;

/// x
#[derive(Debug, Clone)]
pub struct Postgres;
/// x
#[derive(Debug)]
pub struct Tx;

#[expect(clippy::todo, reason = "stub")]
impl Postgres {
    pub(super) async fn connect(_url: &str, _prefix: String) -> Result<Self, Error> {
        todo!()
    }
    pub(super) async fn migrate(&self) -> Result<(), Error> {
        todo!()
    }
    pub(super) async fn begin(&self) -> Result<Tx, Error> {
        todo!()
    }
    pub(super) async fn outbox_delete(&self, _rows: &[Uuid]) -> Result<(), Error> {
        todo!()
    }
    pub(super) async fn outbox_claim(
        &self,
        _now: i64,
        _before: i64,
        _until: i64,
        _limit: u32,
    ) -> Result<Vec<OutboxRow>, Error> {
        todo!()
    }
    pub(super) async fn outbox_len(&self) -> Result<u64, Error> {
        todo!()
    }
    pub(super) async fn outbox_refuse(&self, _row: Uuid, _reason: &str) -> Result<(), Error> {
        todo!()
    }
    pub(super) async fn work_due(&self, _now: i64, _limit: u32) -> Result<Vec<(ReactionId, SagaId)>, Error> {
        todo!()
    }
    pub(super) async fn work_next_due(&self) -> Result<Option<i64>, Error> {
        todo!()
    }
    pub(super) async fn work(&self, _limit: u32) -> Result<Vec<WorkRow>, Error> {
        todo!()
    }
    pub(super) async fn release_leases(&self, _owner: Uuid, _now: i64) -> Result<(), Error> {
        todo!()
    }
    pub(super) async fn ledger(&self, _saga: SagaId) -> Result<Vec<LedgerRow>, Error> {
        todo!()
    }
    pub(super) async fn ledger_steps(&self) -> Result<Vec<String>, Error> {
        todo!()
    }
    pub(super) async fn check(&self) -> Result<(), Error> {
        todo!()
    }
}
#[expect(clippy::todo, reason = "stub")]
impl Tx {
    pub(super) async fn lock(&mut self, _sagas: &[SagaId]) -> Result<(), Error> {
        todo!()
    }
    pub(super) async fn read(&mut self, _sagas: &[SagaId]) -> Result<(Vec<LedgerRow>, Vec<WorkRow>), Error> {
        todo!()
    }
    pub(super) async fn write(&mut self, _changes: &Changes) -> Result<(), Error> {
        todo!()
    }
    pub(super) async fn started(&mut self, _caller: &str, _key: &str) -> Result<Option<StartedRow>, Error> {
        todo!()
    }
    pub(super) async fn insert_started(&mut self, _row: &StartedRow) -> Result<(), Error> {
        todo!()
    }
    pub(super) fn conn(&mut self) -> &mut PgConnection {
        todo!()
    }
    pub(super) async fn commit(self) -> Result<(), Error> {
        todo!()
    }
}
