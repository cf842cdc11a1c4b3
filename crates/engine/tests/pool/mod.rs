//! Sandboxes that are kept warm, and who waits for room.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use caisson_core::{Error, Sandbox, SandboxId, SandboxSpec, SetupCommand, SetupStep, Tenant, Warmth};
use caisson_engine::{CreateRequest, Created, Engine, PoolSnapshot, asked_for};
use tokio_util::sync::CancellationToken;

use crate::{
    result,
    support::{World, shell},
};

fn pool(world: &World) -> PoolSnapshot {
    world.engine.metrics().pool
}

/// Waits until the pool is like that.
async fn until(world: &World, what: &str, like: impl Fn(PoolSnapshot) -> bool) {
    for _ in 0..600 {
        if like(pool(world)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{what}: {:?}", pool(world));
}

/// A spec of which so many are kept whether anybody asks or not.
fn kept(world: &World, min: u32, max: u32) -> SandboxSpec {
    let mut spec = world.spec();
    spec.recipe.template = Some("t".to_owned());
    spec.recipe.warm = Some(Warmth { min, max, ..Warmth::default() });
    spec
}

async fn create(engine: &Engine, spec: &SandboxSpec) -> Result<Sandbox, Error> {
    match engine.create(CreateRequest { spec: spec.clone(), ..CreateRequest::default() }).await? {
        Created::New(sandbox) => Ok(sandbox),
        Created::Existing(other) => panic!("{} has no name and cannot exist", other.id),
    }
}

fn stdout(result: &caisson_engine::ExecutionResult) -> String {
    String::from_utf8_lossy(&result.stdout.head).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r7_5_a_warm_sandbox_is_handed_out_once() {
    let world = World::with(|config| config.pool = true).await;
    let spec = kept(&world, 3, 3);
    world.engine.keep_warm(vec![spec.clone()]).await;
    until(&world, "three wait", |pool| pool.warm == 3).await;
    let everybody = caisson_core::SandboxFilter { limit: 10, ..caisson_core::SandboxFilter::default() };
    assert_eq!(world.engine.sandboxes(&everybody).await.unwrap().data.len(), 0, "they are in no list");
    let mut ids = HashSet::new();
    for n in 0..6 {
        let engine = world.engine.of(&format!("tenant-{}", n % 2).parse().unwrap());
        let sandbox = create(&engine, &spec).await.unwrap();
        assert!(ids.insert(sandbox.id), "{} a second time", sandbox.id);
        assert_eq!(engine.sandbox(sandbox.id).await.unwrap().state, caisson_core::State::Running);
        assert!(world.engine.sandbox(sandbox.id).await.is_err(), "it is another tenant's");
    }
    let seen = pool(&world);
    assert!(seen.hits >= 3 && seen.hits + seen.misses == 6, "{seen:?}");
    world.engine.shutdown().await;
    assert_eq!(world.backend.count(), 0, "nothing is left, whoever it was of");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_late_holds_for_every_program() {
    let world = World::with(|config| config.pool = true).await;
    let mut spec = kept(&world, 1, 1);
    let template = BTreeMap::from([("A".to_owned(), "t".to_owned()), ("B".to_owned(), "t".to_owned())]);
    spec.env.clone_from(&template);
    spec.recipe.warm.as_mut().unwrap().env = template;
    world.engine.keep_warm(vec![spec.clone()]).await;
    until(&world, "one waits", |pool| pool.warm == 1).await;
    let mut asked = spec.clone();
    asked.env.extend([("B".to_owned(), "r".to_owned()), ("C".to_owned(), "r".to_owned())]);
    asked.limits.open_files = 77;
    let sandbox = create(&world.engine, &asked).await.unwrap();
    assert_eq!((pool(&world).hits, sandbox.spec.env["C"].as_str()), (1, "r"));
    let said = result(&world, sandbox.id, shell("echo $A$B$C; ulimit -n")).await;
    assert_eq!(stdout(&said), "trr\n77\n");
    world.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn set_up_is_done_before_anybody_asks_and_what_it_has_seen_is_not_changed() {
    let world = World::with(|config| config.pool = true).await;
    let mut spec = kept(&world, 1, 1);
    let command = SetupCommand::Shell("echo made >> setup".to_owned());
    spec.recipe.setup = vec![SetupStep { command, within: Duration::from_secs(10) }];
    world.engine.keep_warm(vec![spec.clone()]).await;
    until(&world, "one waits", |pool| pool.warm == 1).await;
    let mut request = world.one_shot(shell("cat setup"));
    request.spec = spec.clone();
    let done = world.engine.run(request).await.unwrap().wait().await.unwrap();
    assert_eq!((stdout(&done.result).as_str(), done.files.len(), pool(&world).hits), ("made\n", 0, 1));
    let mut asked = spec.clone();
    asked.env.insert("A".to_owned(), "r".to_owned());
    create(&world.engine, &asked).await.unwrap();
    assert_eq!((pool(&world).hits, pool(&world).misses), (1, 1), "set-up is to see the variable");
    world.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_for_is_kept_without_a_template_as_well() {
    let world = World::with(|config| config.pool = true).await;
    let spec = world.spec();
    create(&world.engine, &spec).await.unwrap();
    assert_eq!(pool(&world).misses, 1);
    until(&world, "one waits", |pool| pool.warm == 1).await;
    create(&world.engine, &spec).await.unwrap();
    assert_eq!(pool(&world).hits, 1);
    let other = SandboxSpec { hostname: "other".to_owned(), ..spec };
    let sandbox = create(&world.engine, &other).await.unwrap();
    assert_eq!((pool(&world).hits, sandbox.spec.hostname.as_str()), (1, "other"));
    world.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_and_outdated_ones_are_replaced() {
    let world = World::with(|config| config.pool = true).await;
    let spec = kept(&world, 1, 1);
    world.engine.keep_warm(vec![spec.clone()]).await;
    until(&world, "one waits", |pool| pool.warm == 1).await;
    let first = world.backend.ids();
    world.backend.crash(first[0]);
    until(&world, "it is replaced", |pool| pool.made == 2 && pool.warm == 1).await;
    let second = world.backend.ids();
    assert!(second.len() == 1 && second != first, "{first:?} {second:?}");

    // A dead one that nobody has noticed yet is none that somebody gets.
    world.backend.crash(second[0]);
    let sandbox = create(&world.engine, &spec).await.unwrap();
    assert_eq!(stdout(&result(&world, sandbox.id, shell("echo alive")).await), "alive\n");

    let mut changed = spec.clone();
    changed.recipe.setup = vec![SetupStep { command: SetupCommand::Shell("echo new > setup".to_owned()), within: Duration::from_secs(10) }];
    until(&world, "one waits again", |pool| pool.warm == 1).await;
    let old = world.backend.ids();
    world.engine.keep_warm(vec![changed]).await;
    let left = || world.backend.ids().into_iter().filter(|id| old.contains(id)).collect::<Vec<SandboxId>>();
    until(&world, "the old one has gone and a new one waits", |pool| pool.warm == 1 && left().len() < old.len()).await;
    assert_eq!(left(), [sandbox.id], "what somebody has stays");
    world.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_made_is_no_error_for_anybody() {
    let world = World::with(|config| config.pool = true).await;
    let spec = kept(&world, 2, 2);
    *world.backend.refuse.lock().unwrap() = Some(caisson_core::BackendError::Exhausted("no more".to_owned()));
    world.engine.keep_warm(vec![spec.clone()]).await;
    until(&world, "it failed", |pool| pool.failed >= 1).await;
    *world.backend.refuse.lock().unwrap() = None;
    create(&world.engine, &spec).await.unwrap();
    until(&world, "it is tried again", |pool| pool.warm == 2).await;
    world.engine.shutdown().await;
    assert_eq!(world.backend.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pooled_ones_give_way() {
    let world = World::with(|config| (config.pool, config.max_sandboxes, config.queue_wait) = (true, 3, Duration::ZERO)).await;
    world.engine.keep_warm(vec![kept(&world, 3, 3)]).await;
    until(&world, "as many wait as leave room for one", |pool| pool.warm == 2).await;
    for _ in 0..3 {
        create(&world.engine, &world.spec()).await.unwrap();
        assert!(world.backend.count() <= 3, "there are never more than there may be");
    }
    assert_eq!(pool(&world).dropped, 2);
    let full = create(&world.engine, &world.spec()).await.unwrap_err();
    assert!(matches!(&full, Error::Unavailable { retry_after, .. } if *retry_after == Duration::from_secs(5)), "{full}");
    world.engine.shutdown().await;
}

/// A create of this tenant that waits, in a task of its own.
async fn waiting(world: &World, tenant: &str) -> tokio::task::JoinHandle<Result<Sandbox, Error>> {
    let before = world.engine.metrics().waiting;
    let (engine, spec) = (world.engine.of(&tenant.parse::<Tenant>().unwrap()), world.spec());
    let task = tokio::spawn(async move { create(&engine, &spec).await });
    while world.engine.metrics().waiting == before {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    task
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_finds_no_room_waits_in_turns() {
    let world = World::with(|config| config.max_sandboxes = 2).await;
    let (first, second) = (world.sandbox().await, world.sandbox().await);
    let a = [waiting(&world, "a").await, waiting(&world, "a").await, waiting(&world, "a").await];
    let b = waiting(&world, "b").await;
    world.engine.destroy(first).await.unwrap();
    world.engine.destroy(second).await.unwrap();
    let (of_b, [a1, a2, a3]) = (b.await.unwrap().unwrap(), a);
    let of_a = a1.await.unwrap().unwrap();
    assert_eq!((a2.is_finished(), a3.is_finished(), world.engine.metrics().waiting), (false, false, 2), "it is not their turn");
    world.engine.of(&of_b.tenant).destroy(of_b.id).await.unwrap();
    a2.await.unwrap().unwrap();
    a3.abort();
    world.engine.of(&of_a.tenant).destroy(of_a.id).await.unwrap();
    world.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_ends_with_the_deadline_with_the_asker_and_with_the_server() {
    let world = World::with(|config| (config.max_sandboxes, config.queue_wait) = (1, Duration::from_millis(300))).await;
    let only = world.sandbox().await;
    let late = create(&world.engine, &world.spec()).await.unwrap_err();
    assert!(late.code() == "unavailable" && late.to_string().contains("maximum of 1"), "{late}");

    let gone = CancellationToken::new();
    let (engine, spec, asker) = (world.engine.clone(), world.spec(), gone.clone());
    let left = tokio::spawn(async move { asked_for(asker, async { create(&engine, &spec).await }).await });
    while world.engine.metrics().waiting == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    gone.cancel();
    assert_eq!(left.await.unwrap().unwrap_err().code(), "unavailable");
    world.engine.destroy(only).await.unwrap();
    assert_eq!((world.backend.count(), world.engine.tenant_use().holdings.sandboxes), (0, 0), "whoever has left gets nothing");

    let _only = world.sandbox().await;
    let waits = waiting(&world, "a").await;
    world.engine.shutdown().await;
    assert_eq!(waits.await.unwrap().unwrap_err().code(), "unavailable");
}
