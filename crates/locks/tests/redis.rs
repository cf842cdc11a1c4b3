//! Locks in a real Redis, which is killed, frozen and started again.

#[path = "../../../tests/src/redis.rs"]
#[allow(dead_code, unreachable_pub, reason = "others use the rest")]
mod server;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use caisson_locks::{BadSettings, Held, LockError, Locks, Settings};
use futures::{FutureExt, future::join_all};
use server::{PASSWORD, PASSWORD_IN_URLS, Redis};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    sync::{OwnedRwLockWriteGuard, RwLock},
    time::{sleep, timeout},
};

const SOON: Duration = Duration::from_secs(5);
const NAME: &str = "daiv-sandbox:session-lock:s1";

fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

/// Long-lived locks, looked after often.
fn settings() -> Settings {
    Settings { ttl: Duration::from_secs(60), refresh: ms(50), look: ms(10), answer: ms(500), ..Settings::default() }
}

/// Those of another server, every time.
fn locks_at(url: &str, settings: Settings) -> Locks {
    Locks::redis(&url.parse().unwrap(), settings).unwrap()
}

fn locks(redis: &Redis) -> Locks {
    locks_at(&redis.url(), settings())
}

/// Stands in front of servers.
struct Relay {
    port: u16,
    /// Where new connections lead.
    to: Arc<AtomicU16>,
    /// In front of what new connections send.
    gate: Arc<Mutex<Arc<RwLock<()>>>>,
}

impl Relay {
    async fn to(redis: &Redis) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, to) = (listener.local_addr().unwrap().port(), Arc::new(AtomicU16::new(redis.port())));
        let relay = Self { port, to: Arc::clone(&to), gate: Arc::default() };
        let gates = Arc::clone(&relay.gate);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let gate = Arc::clone(&gates.lock().unwrap());
                let server = TcpStream::connect(("127.0.0.1", to.load(Ordering::SeqCst))).await.unwrap();
                let ((mut asked, mut answers), (mut answered, mut asks)) = (client.into_split(), server.into_split());
                tokio::spawn(async move { copy(&mut answered, &mut answers).await });
                tokio::spawn(async move {
                    let mut bytes = [0; 4096];
                    while let Ok(n @ 1..) = asked.read(&mut bytes).await {
                        drop(gate.read().await);
                        asks.write_all(&bytes[..n]).await.unwrap();
                    }
                });
            }
        });
        relay
    }

    /// What is sent on connections that are open now arrives when this is dropped.
    fn hold(&self) -> OwnedRwLockWriteGuard<()> {
        std::mem::take(&mut *self.gate.lock().unwrap()).try_write_owned().unwrap()
    }

    fn locks(&self) -> Locks {
        locks_at(&format!("redis://:{PASSWORD_IN_URLS}@127.0.0.1:{}", self.port), settings())
    }
}

#[track_caller]
fn unavailable(answer: Result<Held, LockError>) -> String {
    match answer {
        Err(LockError::Unavailable(reason)) => {
            assert!(!reason.contains(PASSWORD) && !reason.contains(PASSWORD_IN_URLS), "{reason}");
            reason
        }
        other => panic!("it should not be available: {other:?}"),
    }
}

#[tokio::test]
async fn another_server_waits_and_gets_it() {
    let redis = Redis::start();
    let (one, other) = (locks(&redis), locks(&redis));
    one.check().await.unwrap();
    let held = one.acquire("s1", Duration::ZERO).await.unwrap();
    let ttl: u64 = redis.ask(&["PTTL", NAME]).parse().unwrap();
    assert!((50_000..=60_000).contains(&ttl), "{ttl}");
    let begun = Instant::now();
    assert_eq!(other.acquire("s1", ms(200)).await.unwrap_err(), LockError::Busy);
    assert!((ms(200)..ms(700)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert_eq!(one.acquire("s1", ms(20)).await.unwrap_err(), LockError::Busy, "also in the same process");
    drop(other.acquire("s2", Duration::ZERO).await.unwrap());

    let fence = held.fence();
    let (next, ()) = tokio::join!(other.acquire("s1", SOON), async {
        sleep(ms(50)).await;
        drop(held);
    });
    let next = next.unwrap();
    assert!(next.fence() > fence);
    // Whoever waits for the release leaves nothing to wait for.
    let fence = next.fence();
    next.release().await;
    let again = one.acquire("s1", Duration::ZERO).await.unwrap();
    assert!(again.fence() > fence);
    drop(again);
    one.settled().await;
    other.settled().await;
    assert_eq!(redis.ask(&["KEYS", "*"]), "daiv-sandbox:session-lock:#fence", "nothing else is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_of_three_servers_are_never_two_at_once() {
    let redis = Redis::start();
    let (servers, last) = ([locks(&redis), locks(&redis), locks(&redis)], Arc::new(AtomicU64::new(1)));
    let work = (0..60_usize).map(|n| {
        let (locks, last) = (servers[n % 3].clone(), Arc::clone(&last));
        tokio::spawn(async move {
            let held = match locks.acquire("s1", if n % 4 == 0 { ms(5) } else { Duration::from_secs(60) }).await {
                Ok(held) => held,
                Err(error) => return assert_eq!((error, n % 4), (LockError::Busy, 0)),
            };
            // Zero says that somebody is inside.
            let before = last.swap(0, Ordering::SeqCst);
            assert!(before > 0 && held.fence() > before, "{before} was before {}", held.fence());
            sleep(ms(2)).await;
            assert_eq!(last.swap(held.fence(), Ordering::SeqCst), 0, "nobody else was inside");
        })
    });
    for done in join_all(work).await {
        done.unwrap();
    }
    assert!(last.load(Ordering::SeqCst) > 1);
}

#[tokio::test]
async fn a_lock_that_is_renewed_outlives_its_time() {
    let redis = Redis::start();
    let short = Settings { ttl: ms(400), ..settings() };
    let held = locks_at(&redis.url(), short).acquire("s1", Duration::ZERO).await.unwrap();
    assert_eq!(locks(&redis).acquire("s1", ms(1200)).await.unwrap_err(), LockError::Busy);
    assert!(held.holds() && held.lost().now_or_never().is_none());
}

/// Its process does nothing for longer than the lock lives: it learns of it before it does anything else, and cannot release what is another's.
#[test]
fn who_stalls_loses_the_lock_and_learns_it() {
    let redis = Redis::start();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (stalls, works) = (runtime(), runtime());
    let short = Settings { ttl: ms(300), ..settings() };
    // Nothing of a runtime happens but inside `block_on`.
    let old = stalls.block_on(locks_at(&redis.url(), short).acquire("s1", Duration::ZERO)).unwrap();
    let new = works.block_on(locks(&redis).acquire("s1", SOON)).unwrap();
    assert!(new.fence() > old.fence());
    assert!(!old.holds());
    stalls.block_on(async { timeout(ms(100), old.lost()).await.expect("it knows at once") });
    stalls.block_on(old.release());
    works.block_on(async {
        assert_eq!(locks(&redis).acquire("s1", ms(50)).await.unwrap_err(), LockError::Busy);
        assert!(new.holds());
        new.release().await;
    });
}

#[test]
fn a_lock_of_somebody_who_was_killed_is_free_after_its_time() {
    let redis = Redis::start();
    let killed = tokio::runtime::Runtime::new().unwrap();
    let short = Settings { ttl: ms(500), ..settings() };
    let begun = Instant::now();
    let held = killed.block_on(locks_at(&redis.url(), short).acquire("s1", Duration::ZERO)).unwrap();
    std::mem::forget(held);
    killed.shutdown_background();
    let next = tokio::runtime::Runtime::new().unwrap();
    next.block_on(async {
        assert_eq!(locks(&redis).acquire("s1", ms(100)).await.unwrap_err(), LockError::Busy);
        locks(&redis).acquire("s1", SOON).await.unwrap().release().await;
    });
    assert!(begun.elapsed() >= ms(500));
}

#[tokio::test]
async fn only_the_owner_renews_and_releases() {
    let redis = Redis::start();
    let held = locks(&redis).acquire("s1", Duration::ZERO).await.unwrap();
    assert_eq!(redis.ask(&["SET", NAME, "of somebody else", "PX", "30000"]), "OK");
    timeout(SOON, held.lost()).await.expect("it notices");
    assert!(!held.holds());
    held.release().await;
    assert_eq!(redis.ask(&["GET", NAME]), "of somebody else");
    assert!(redis.ask(&["PTTL", NAME]).parse::<u64>().unwrap() <= 30_000, "nobody has renewed it");
}

#[tokio::test]
async fn redis_dies_and_comes_back() {
    let mut redis = Redis::start();
    let (locks, other) = (locks(&redis), locks(&redis));
    let held = locks.acquire("s1", Duration::ZERO).await.unwrap();
    let short = locks_at(&redis.url(), Settings { ttl: ms(600), ..settings() }).acquire("s2", Duration::ZERO).await.unwrap();
    redis.kill();
    let killed = Instant::now();
    let reason = unavailable(locks.acquire("s3", SOON).await);
    assert!(reason.contains("cannot be reached") && reason.contains("CAISSON_REDIS_URL"), "{reason}");
    assert!(killed.elapsed() < ms(1000), "{:?}", killed.elapsed());
    assert!(held.holds(), "its time is not over");
    let reason = unavailable(locks.acquire("s1", ms(50)).await);
    assert!(reason.contains("cannot be reached"), "nobody is said to be busy: {reason}");
    timeout(SOON, short.lost()).await.expect("its time is over without a renewal");
    assert!(killed.elapsed() >= ms(500));
    drop(short);

    // It has forgotten all locks and numbers.
    redis.start_again();
    timeout(SOON, held.lost()).await.expect("another one could have it");
    assert_eq!(locks.acquire("s1", Duration::ZERO).await.unwrap_err(), LockError::Busy, "in its own process nobody is beside it");
    let new = other.acquire("s1", Duration::ZERO).await.unwrap();
    assert!(new.fence() > held.fence(), "numbers grow all the same");
    held.release().await;
    assert_eq!(locks.acquire("s1", ms(100)).await.unwrap_err(), LockError::Busy);
    assert!(new.holds());
}

#[tokio::test]
async fn a_restart_with_data_on_disk_is_not_noticed() {
    let mut redis = Redis::persistent();
    let (one, other) = (locks(&redis), locks(&redis));
    let held = one.acquire("s1", Duration::ZERO).await.unwrap();
    redis.kill();
    redis.start_again();
    assert_eq!(other.acquire("s1", ms(300)).await.unwrap_err(), LockError::Busy);
    assert!(held.holds());
    let fence = held.fence();
    // Released while nobody is there: tried again.
    redis.kill();
    held.release().await;
    redis.start_again();
    assert!(other.acquire("s1", SOON).await.unwrap().fence() > fence);
}

#[tokio::test]
async fn a_server_that_only_reads_by_now_is_left() {
    let (old, new) = (Redis::start(), Redis::start());
    let relay = Relay::to(&old).await;
    let locks = relay.locks();
    locks.check().await.unwrap();
    assert_eq!(old.ask(&["REPLICAOF", "127.0.0.1", &new.port().to_string()]), "OK");
    relay.to.store(new.port(), Ordering::SeqCst);
    // On the connection that is open. The next one leads to the other server.
    let reason = unavailable(locks.acquire("s1", SOON).await);
    assert!(reason.contains("READONLY"), "{reason}");
    let held = locks.acquire("s1", Duration::ZERO).await.unwrap();
    assert_ne!(new.ask(&["GET", NAME]), "");
    held.release().await;
}

#[tokio::test]
async fn a_release_that_is_refused_for_now_is_tried_again() {
    let redis = Redis::start();
    let held = locks(&redis).acquire("s1", Duration::ZERO).await.unwrap();
    assert_eq!(redis.ask(&["CONFIG", "SET", "min-replicas-to-write", "1"]), "OK");
    held.release().await;
    let reason = unavailable(locks(&redis).acquire("s1", SOON).await);
    assert!(reason.contains("NOREPLICAS"), "{reason}");
    assert_eq!(redis.ask(&["CONFIG", "SET", "min-replicas-to-write", "0"]), "OK");
    drop(locks(&redis).acquire("s1", SOON).await.unwrap());
}

#[tokio::test]
async fn a_redis_that_hangs_is_given_up_and_keeps_nothing() {
    let mut redis = Redis::start();
    let (one, other) = (locks(&redis), locks(&redis));
    one.check().await.unwrap();
    redis.freeze();
    let begun = Instant::now();
    // On a connection that is open, and on new ones.
    for _ in 0..3 {
        let reason = unavailable(one.acquire("s1", Duration::ZERO).await);
        assert!(reason.contains("did not answer within 0.5 s"), "{reason}");
        unavailable(other.acquire("s1", Duration::ZERO).await);
    }
    assert!(begun.elapsed() < ms(4000), "{:?}", begun.elapsed());
    redis.thaw();
    // What was asked for in vain has been done now, and is undone.
    drop(other.acquire("s1", SOON).await.unwrap());
    drop(one.acquire("s1", SOON).await.unwrap());
}

#[tokio::test]
async fn a_request_that_arrives_after_its_release_gets_nothing() {
    let redis = Redis::start();
    let scripts = || {
        let stats = redis.ask(&["INFO", "commandstats"]);
        let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_eval:calls=")?.split_once(',')).expect("there were some").0;
        calls.parse::<u64>().unwrap()
    };
    let arrived = async |number| {
        let arriving = async {
            while scripts() < number {
                sleep(ms(10)).await;
            }
        };
        timeout(SOON, arriving).await.expect("it arrives");
    };
    let relay = Relay::to(&redis).await;
    let locks = relay.locks();
    locks.check().await.unwrap();
    let on_its_way = relay.hold();
    unavailable(locks.acquire("s1", Duration::ZERO).await);
    // The release takes another way.
    arrived(4).await;
    drop(on_its_way);
    arrived(5).await;
    assert_eq!(redis.ask(&["GET", NAME]), "");
    assert!(locks.acquire("s1", Duration::ZERO).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_at_any_moment_holds_nothing() {
    let redis = Redis::start();
    let (one, other) = (locks(&redis), locks(&redis));
    one.check().await.unwrap();
    for n in 0..200 {
        // Somewhere between sending and having.
        drop(timeout(Duration::from_micros(n * 5), one.acquire("s1", Duration::ZERO)).await);
    }
    one.settled().await;
    drop(other.acquire("s1", Duration::ZERO).await.unwrap());
}

#[tokio::test]
async fn what_is_wrong_is_said_without_passwords() {
    let redis = Redis::start();
    let port = redis.port();
    for (url, words) in [
        (format!("redis://:wrong@127.0.0.1:{port}"), ["does not let us in", "correct user and password"]),
        (format!("redis://nobody:{PASSWORD_IN_URLS}@127.0.0.1:{port}"), ["nobody@127.0.0.1", "correct user and password"]),
        (format!("redis://127.0.0.1:{port}"), ["does not let us in", "correct user and password"]),
        (format!("redis://limited:{PASSWORD_IN_URLS}@127.0.0.1:{port}"), ["does not let this user do all", "EVAL"]),
        (format!("redis://:{PASSWORD_IN_URLS}@127.0.0.1:{port}/4711"), ["/4711", "refuses"]),
        (format!("redis://:{PASSWORD_IN_URLS}@127.0.0.1:1"), ["cannot be reached", "start it"]),
        (format!("redis://:{PASSWORD_IN_URLS}@nowhere.invalid"), ["cannot be reached", "nowhere.invalid:6379"]),
        (format!("rediss://:{PASSWORD_IN_URLS}@127.0.0.1:{port}"), ["over TLS", "rediss://127.0.0.1"]),
    ] {
        let locks = locks_at(&url, Settings { answer: ms(1500), ..settings() });
        let reason = unavailable(locks.acquire("s1", SOON).await);
        assert!(words.iter().all(|word| reason.contains(word)) && !reason.contains("wrong"), "{url}: {reason}");
        assert_eq!(locks.check().await.unwrap_err().to_string(), reason);
        assert!(!format!("{locks:?}").contains(PASSWORD_IN_URLS) && !format!("{locks:?}").contains(PASSWORD));
    }
    // Somebody else's key under the name.
    assert_eq!(redis.ask(&["LPUSH", NAME, "x"]), "1");
    assert!(unavailable(locks(&redis).acquire("s1", SOON).await).contains("WRONGTYPE"));
}

#[test]
fn settings_that_lose_locks_are_refused() {
    let refused = |settings| Locks::redis(&"redis://h".parse().unwrap(), settings).unwrap_err();
    let late = Settings { ttl: ms(50), ..settings() };
    assert_eq!(refused(late), BadSettings::RenewedTooLate { refresh: ms(50), ttl: ms(50) });
    assert_eq!(refused(Settings { answer: Duration::ZERO, ..settings() }), BadSettings::NoTime);
    assert_eq!(refused(Settings { prefix: String::new(), ..settings() }), BadSettings::NoPrefix);
}
