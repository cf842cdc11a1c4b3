//! Leases of the servers that share a database.
//!
//! A server's row says until when it is believed to be there. Whoever finds that time over removes the row, and ends in the same transaction
//! what the server hosted. Whoever records something locks the row against that (`for key share`), so what is recorded before is ended, and
//! afterwards nothing can be: see [`super::records`].

use caisson_core::{Abandoned, Buried, Hosted, Peer, Seen, ServerId, Tenant, Tombstone};
use sqlx::{Connection, PgConnection};

use super::{
    attempts::Failure,
    owner::{Owner, lease_us},
    records::{self, Kept, Of},
    storable,
};
use crate::rows::Columns;

/// What there is one of for all servers.
const LEADER: &str = "leader";

/// How things are, and how many events there were by then; `None` for a server that was declared dead.
pub(super) async fn look(db: &mut PgConnection, owner: &Owner) -> Result<Option<(Seen, u64)>, Failure> {
    let rows = sqlx::query(
        "select id, run, url, (select number from changes) as changes, (select server from roles where name = $1) as leader, \
         (select coalesce(sum(last_event), 0)::bigint from tenants) as events from servers",
    );
    let rows = rows.bind(LEADER).fetch_all(db).await?;
    let (id, run) = (owner.id(), owner.run());
    let own =
        |row: &&sqlx::postgres::PgRow| row.text("id").flatten().as_deref() == Some(id) && row.text("run").flatten() == Some(run.clone());
    let Some(own) = rows.iter().find(own) else { return Ok(None) };
    let peer = |row| Some(Peer { id: Columns::parsed(row, "id")?, url: Columns::text(row, "url")?? });
    let peers = rows.iter().filter_map(peer).filter(|peer| peer.id != owner.membership.id).collect();
    let seen = Seen {
        peers,
        changes: own.number("changes").flatten().unwrap_or_default(),
        leads: own.text("leader").flatten().as_deref() == Some(id),
    };
    Ok(Some((seen, own.number("events").flatten().unwrap_or_default())))
}

/// Whether the lease goes on. What nobody does for all is this server's to do then.
pub(super) async fn renew(db: &mut PgConnection, owner: &Owner) -> Result<bool, Failure> {
    let lease = owner.membership.sharing.as_ref().map_or(0, |sharing| lease_us(sharing.lease));
    let query = sqlx::query("update servers set lease_until = now_us() + $1 where id = $2 and run = $3");
    let renewed = query.bind(lease).bind(owner.id()).bind(owner.run()).execute(&mut *db).await?;
    if renewed.rows_affected() == 0 {
        return Ok(false);
    }
    let query = sqlx::query(
        "insert into roles (name, server) select $1, $2 where not exists (select 1 from roles where name = $1) \
         and exists (select 1 from servers where id = $2) on conflict do nothing",
    );
    query.bind(LEADER).bind(owner.id()).execute(db).await?;
    Ok(true)
}

pub(super) async fn bury_the_dead(db: &mut PgConnection, owner: &Owner, tombstone: &Tombstone) -> Result<Vec<Buried>, Failure> {
    let dead = sqlx::query("select id from servers where lease_until < now_us() and id <> $1").bind(owner.id()).fetch_all(&mut *db).await?;
    let mut buried = Vec::new();
    for server in dead.iter().filter_map(|row| row.parsed::<ServerId>("id")) {
        let mut all = db.begin().await?;
        // Whoever removes the row does the rest. It may have come back meanwhile.
        let gone = sqlx::query("delete from servers where id = $1 and lease_until < now_us()").bind(server.as_str());
        if gone.execute(&mut *all).await?.rows_affected() == 0 {
            all.rollback().await?;
            continue;
        }
        let (sandboxes, executions) = records::bury(&mut all, Of::One(server.as_str()), tombstone, &Kept::OnDisk).await?;
        all.commit().await?;
        buried.push(Buried { server, sandboxes, executions });
    }
    Ok(buried)
}

/// Those that are stopped on servers that are not there: `$1`, or all that were stopped before `$2`.
macro_rules! abandoned {
    () => {
        "state = 'stopped' and (id = $1 or stopped_at < $2) and not exists (select 1 from servers where servers.id = sandboxes.server)"
    };
}

pub(super) async fn end_abandoned(db: &mut PgConnection, which: Abandoned, tombstone: &Tombstone) -> Result<u64, Failure> {
    let (one, before) = match which {
        Abandoned::One(id) => (Some(id.to_string()), None),
        Abandoned::Before(at) => (None, Some(at.as_microsecond())),
    };
    // Nearly always there is none, and the lock below holds up whoever renews a lease.
    let is_any = sqlx::query(concat!("select 1 from sandboxes where ", abandoned!(), " limit 1")).bind(&one).bind(before);
    if is_any.fetch_optional(&mut *db).await?.is_none() {
        return Ok(0);
    }
    let mut all = db.begin().await?;
    // A server that comes back just now has its row before, and is there, or reads its sandboxes behind this.
    sqlx::query("lock table servers in share mode").execute(&mut *all).await?;
    let ended = sqlx::query(concat!(
        "update sandboxes set state = 'ended', stop_reason = null, stopped_at = null, tombstone_reason = $3, tombstone_message = $4, \
         tombstone_at = $5 where ",
        abandoned!()
    ));
    let ended = ended.bind(&one).bind(before).bind(tombstone.reason.as_str()).bind(&*storable(&tombstone.message));
    let ended = ended.bind(tombstone.at.as_microsecond()).execute(&mut *all).await?.rows_affected();
    all.commit().await?;
    Ok(ended)
}

pub(super) async fn leave(db: &mut PgConnection, owner: &Owner) -> Result<(), Failure> {
    sqlx::query("delete from servers where id = $1 and run = $2").bind(owner.id()).bind(owner.run()).execute(db).await?;
    Ok(())
}

pub(super) async fn host(db: &mut PgConnection, what: Hosted) -> Result<Option<ServerId>, Failure> {
    let (query, id) = match what {
        Hosted::Sandbox(id) => ("select server from sandboxes where id = $1", id.to_string()),
        Hosted::Execution(id) => {
            ("select server from executions join sandboxes on sandboxes.id = executions.sandbox where executions.id = $1", id.to_string())
        }
    };
    let found = sqlx::query(query).bind(id).fetch_optional(db).await?;
    Ok(found.and_then(|row| row.parsed("server")))
}

pub(super) async fn secret(db: &mut PgConnection, candidate: &[u8; 32]) -> Result<[u8; 32], Failure> {
    sqlx::query("insert into secrets (secret) values ($1) on conflict do nothing").bind(&candidate[..]).execute(&mut *db).await?;
    let row = sqlx::query("select secret, 'secret' as name from secrets").fetch_one(db).await?;
    let secret = row.bytes("secret").and_then(|bytes| bytes.try_into().ok());
    Ok(secret.ok_or_else(|| row.corrupt("name"))?)
}

pub(super) async fn claim_answer(db: &mut PgConnection, owner: &Owner, tenant: &Tenant, key: &str) -> Result<bool, Failure> {
    let query = sqlx::query(
        "insert into answers_under_way (tenant, key, server) select $1, $2, id from servers where id = $3 and run = $4 \
         on conflict do nothing",
    );
    query.bind(tenant.as_str()).bind(key).bind(owner.id()).bind(owner.run()).execute(&mut *db).await?;
    let holder = sqlx::query("select server from answers_under_way where tenant = $1 and key = $2").bind(tenant.as_str()).bind(key);
    Ok(holder.fetch_optional(db).await?.and_then(|row| row.text("server")?).as_deref() == Some(owner.id()))
}

pub(super) async fn release_answer(db: &mut PgConnection, owner: &Owner, tenant: &Tenant, key: &str) -> Result<(), Failure> {
    let query = sqlx::query("delete from answers_under_way where tenant = $1 and key = $2 and server = $3");
    query.bind(tenant.as_str()).bind(key).bind(owner.id()).execute(db).await?;
    Ok(())
}
