//! The suite of every store over PostgreSQL, and what is PostgreSQL's own.

#[path = "../../../tests/src/postgres.rs"]
#[allow(dead_code, unreachable_pub, reason = "it is there for others as well")]
mod cluster;
#[macro_use]
mod suite;

use std::time::{Duration, Instant};

use caisson_core::{EventFilter, Hosted, Ledger, Sandbox, ServerId, Servers, Store, StoreError, Tenant, Tombstone, TombstoneReason};
use caisson_store::{Location, Membership, OpenError, Postgres, Sharing};
use futures::future::join_all;

use self::cluster::{Cluster, new_database, shared};

async fn open(url: &str) -> Result<Postgres, OpenError> {
    open_as(url, Membership { id: ServerId::random(), sharing: None }).await
}

/// One of several, whose leases are as short as nobody would have them.
async fn open_shared(url: &str, id: ServerId) -> Postgres {
    let sharing = Some(Sharing { url: format!("http://{id}"), lease: LEASE });
    open_as(url, Membership { id, sharing }).await.unwrap()
}

async fn open_as(url: &str, membership: Membership) -> Result<Postgres, OpenError> {
    match url.parse().unwrap() {
        Location::Postgres(url) => Postgres::open(&url, membership).await,
        Location::Sqlite(path) => panic!("{} is a file", path.display()),
    }
}

macro_rules! suite {
    ($($name:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let url = new_database();
                suite::$name(&open(&url).await.unwrap()).await;
                cluster::drop_database(&url);
            }
        )*
    };
}

every_test!(suite);

const LEASE: Duration = Duration::from_secs(2);

fn tombstone() -> Tombstone {
    Tombstone { reason: TombstoneReason::ServerLost, message: "gone".to_owned(), at: jiff::Timestamp::now() }
}

/// Every connection of servers breaks, in the midst of whatever it does.
fn break_connections(url: &str) {
    let found = "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name like 'caisson serve%' \
                 and datname = current_database()";
    shared().lock().unwrap().sql(url, found);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_has_one_server() {
    let url = new_database();
    let first = open(&url).await.unwrap();
    let id = suite::insert_one(&first).await;
    let refused = open(&url).await.unwrap_err();
    let me = format!("process {}", std::process::id());
    assert!(matches!(refused, OpenError::InUse { .. }) && refused.to_string().contains(&me), "{refused}");
    assert!(!refused.to_string().contains("pass"), "no password is shown: {refused}");
    // It has it again after a loss, whether anybody asks for something or not.
    break_connections(&url);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(matches!(open(&url).await.unwrap_err(), OpenError::InUse { .. }));
    drop(first);
    let second = open(&url).await.unwrap();
    assert!(second.sandbox(&Tenant::default(), id).await.unwrap().is_some(), "records outlive their server");
    let tombstone = Tombstone { reason: TombstoneReason::ServerLost, message: "a\0b".to_owned(), at: jiff::Timestamp::now() };
    assert_eq!(second.bury_the_living(&tombstone, &[]).await.unwrap(), (1, 0));
    let buried = second.sandbox(&Tenant::default(), id).await.unwrap().unwrap();
    assert_eq!(buried.tombstone.unwrap().message, "a\u{fffd}b", "what cannot be kept is replaced, and the record is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_start_at_once_do_not_collide() {
    let url = new_database();
    let opened = join_all((0..4).map(|_| open(&url))).await;
    assert_eq!(opened.iter().filter(|store| store.is_ok()).count(), 1, "{opened:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_lost_the_database_does_nothing_more() {
    let url = new_database();
    let first = open(&url).await.unwrap();
    suite::insert_one(&first).await;
    // As if another had started and ended while the first was cut off.
    shared().lock().unwrap().sql(&url, "update caisson.servers set run = 'another'");
    break_connections(&url);
    let refused = first.ping().await.unwrap_err();
    let StoreError::Unavailable(cause) = refused else { panic!("{refused:?}") };
    assert!(cause.to_string().contains("another server has taken the database"), "{cause}");
    let begun = Instant::now();
    assert!(first.ping().await.is_err());
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_break_lose_and_double_nothing() {
    let url = new_database();
    let store = open(&url).await.unwrap();
    let made: Vec<Sandbox> = (0..300).map(suite::sandbox).collect();
    let working = join_all(made.iter().map(async |sandbox| {
        store.insert_sandbox(sandbox).await?;
        store.update_sandbox(&suite::ended(sandbox.clone(), 7)).await
    }));
    let breaking = async {
        for _ in 0..15 {
            tokio::time::sleep(Duration::from_millis(40)).await;
            let url = url.clone();
            tokio::task::spawn_blocking(move || break_connections(&url)).await.unwrap();
        }
    };
    let (results, ()) = tokio::join!(working, breaking);
    for (sandbox, result) in made.iter().zip(results) {
        result.unwrap();
        let found = store.sandbox(&Tenant::default(), sandbox.id).await.unwrap().unwrap();
        assert!(found.tombstone.is_some());
    }
    let all = EventFilter { limit: 1000, ..EventFilter::default() };
    let told = store.ledger().unwrap().events(&Tenant::default(), &all).await.unwrap();
    assert_eq!((told.data.len(), told.until), (600, 600), "each has happened once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_is_missed_in_bounded_time() {
    let mut cluster = Cluster::start();
    let url = cluster.new_database();
    let store = open(&url).await.unwrap();
    let id = suite::insert_one(&store).await;
    let away = async |store: &Postgres| {
        let begun = Instant::now();
        let mine = Tenant::default();
        let refused = join_all((0..20).map(|_| store.sandbox(&mine, id))).await;
        assert!(refused.iter().all(|refused| matches!(refused, Err(StoreError::Unavailable(_)))), "{refused:?}");
        assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    };
    type Order = fn(&mut Cluster);
    let ways: [(Order, Order); 3] =
        [(Cluster::stop, Cluster::start_again), (Cluster::kill, Cluster::start_again), (Cluster::freeze, Cluster::thaw)];
    for (go, come) in ways {
        go(&mut cluster);
        away(&store).await;
        let refused = open(&url);
        assert!(matches!(refused.await.unwrap_err(), OpenError::Unreachable { .. } | OpenError::Silent { .. }));
        come(&mut cluster);
        store.ping().await.unwrap();
        assert!(store.sandbox(&Tenant::default(), id).await.unwrap().is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_fit_is_refused_with_the_remedy() {
    let mut cluster = Cluster::start();
    let url = cluster.new_database();
    cluster.sql("postgres", "create database ascii encoding 'SQL_ASCII' locale 'C' template template0");
    cluster.sql("postgres", "create user guest password 'guest'");
    let guest = url.replacen("caisson:pass%3Aword%2Fof%40tests", "guest:guest", 1);
    for (url, word) in [
        (url.replacen("tests", "nobody", 1), "user and password"),
        (cluster.url("nowhere"), "createdb"),
        (cluster.url("ascii"), "--encoding UTF8"),
        (guest.clone(), "grant create on database"),
        ("postgres://u:pass%3Aword@127.0.0.1:1/d".to_owned(), "start it"),
        ("postgres://u:pass%3Aword@nowhere.invalid/d".to_owned(), "start it"),
    ] {
        let refused = open(&url).await.unwrap_err();
        let text = format!("{refused} {refused:?}");
        assert!(refused.to_string().contains(word), "{refused}");
        assert!(!text.contains("pass%3Aword") && !text.contains("pass:word"), "no password is shown: {text}");
    }
    // A schema that was made for it is enough.
    cluster.sql(&url, "create schema caisson authorization guest");
    suite::insert_one(&open(&guest).await.unwrap()).await;
    cluster.sql(&url, "insert into caisson._sqlx_migrations values (99, 'of another', now(), true, '', 0)");
    let refused = open(&guest).await.unwrap_err();
    assert!(matches!(refused, OpenError::Foreign { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_see_each_other_and_end_their_own_alone() {
    let url = new_database();
    let (first_id, second_id) = (ServerId::random(), ServerId::random());
    let first = open_shared(&url, first_id).await;
    let second = open_shared(&url, second_id).await;
    let ids = [suite::insert_one(&first).await, suite::insert_one(&second).await];
    for (store, other) in [(&first, second_id), (&second, first_id)] {
        let seen = store.look().await.unwrap().unwrap();
        assert_eq!(seen.peers.iter().map(|peer| (peer.id, peer.url.clone())).collect::<Vec<_>>(), [(other, format!("http://{other}"))]);
    }
    assert_eq!(first.host(Hosted::Sandbox(ids[1])).await.unwrap(), Some(second_id));
    assert_eq!(second.host(Hosted::Sandbox(ids[0])).await.unwrap(), Some(first_id));
    // One leads, and another one when that one has gone.
    assert!(first.renew().await.unwrap() && second.renew().await.unwrap());
    assert!(first.look().await.unwrap().unwrap().leads && !second.look().await.unwrap().unwrap().leads);
    assert_eq!(first.secret([1; 32]).await.unwrap(), [1; 32]);
    assert_eq!(second.secret([2; 32]).await.unwrap(), [1; 32]);
    let mine = Tenant::default();
    assert!(first.claim_answer(&mine, "key").await.unwrap() && first.claim_answer(&mine, "key").await.unwrap());
    assert!(!second.claim_answer(&mine, "key").await.unwrap());
    let before = second.look().await.unwrap().unwrap().changes;
    first.save_tenant(&mine, &caisson_core::Quotas { sandboxes: Some(1), ..Default::default() }).await.unwrap();
    assert!(second.look().await.unwrap().unwrap().changes > before);
    drop(first);
    // The same server again, as after a crash.
    let first = open_shared(&url, first_id).await;
    assert_eq!(first.bury_the_living(&tombstone(), &[]).await.unwrap(), (1, 0));
    assert!(second.claim_answer(&mine, "key").await.unwrap(), "what it had under way is over");
    assert!(second.sandbox(&mine, ids[1]).await.unwrap().unwrap().tombstone.is_none());
    first.leave().await.unwrap();
    assert!(first.look().await.unwrap().is_none());
    second.renew().await.unwrap();
    assert!(second.look().await.unwrap().unwrap().leads);
    let refused = open(&url).await.unwrap_err();
    assert!(matches!(refused, OpenError::Shared { .. }), "{refused}");
}

/// However many find that a server is dead, and whatever it still does: each of its sandboxes ends once, and none is made any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_server_is_buried_once_and_writes_nothing_more() {
    let url = new_database();
    let dead = open_shared(&url, ServerId::random()).await;
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(open_shared(&url, ServerId::random()).await);
    }
    for server in others.iter().chain([&dead]) {
        assert!(server.renew().await.unwrap());
    }
    let made: Vec<Sandbox> = (0..200).map(suite::sandbox).collect();
    // All the while it goes on to write, as one that has just been stalled.
    let writing = join_all(made.iter().map(async |sandbox| {
        tokio::time::sleep(Duration::from_millis(u64::from(sandbox.id.as_str().as_bytes()[8]) * 36)).await;
        let inserted = dead.insert_sandbox(sandbox).await;
        inserted.is_ok()
    }));
    let burying = async {
        let begun = Instant::now();
        let mut deaths = 0;
        while begun.elapsed() < Duration::from_secs(7) {
            let tombstone = tombstone();
            for buried in join_all(others.iter().map(async |other| {
                assert!(other.renew().await.unwrap());
                other.bury_the_dead(&tombstone).await.unwrap()
            }))
            .await
            {
                deaths += buried.len();
            }
        }
        deaths
    };
    let (inserted, deaths) = tokio::join!(writing, burying);
    assert_eq!(deaths, 1);
    let (before, after) = (inserted.iter().filter(|made| **made).count(), inserted.iter().filter(|made| !**made).count());
    assert!(before > 0 && after > 0, "{before} before its death, {after} after it");
    for (sandbox, was_inserted) in made.iter().zip(&inserted) {
        let found = others[0].sandbox(&Tenant::default(), sandbox.id).await.unwrap();
        assert_eq!(found.is_some(), *was_inserted);
        assert!(found.is_none_or(|found| found.tombstone.is_some()), "one was left living");
    }
    let all = EventFilter { limit: 1000, ..EventFilter::default() };
    let told = others[0].ledger().unwrap().events(&Tenant::default(), &all).await.unwrap();
    assert_eq!(told.data.len(), 2 * before, "each was made and ended once");
    assert!(!dead.renew().await.unwrap());
    assert!(dead.look().await.unwrap().is_none());
    dead.rejoin().await.unwrap();
    assert!(dead.renew().await.unwrap());
    suite::insert_one(&dead).await;
}
