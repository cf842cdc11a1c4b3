//! What every store must do, whatever is behind it. Each test gets an empty store.

/// Every test of the suite, handed to a macro that makes a test of each name.
macro_rules! every_test {
    ($make:ident) => {
        $make! {
                every_field_comes_back,
                an_image_is_recorded_by_its_name_and_id,
                every_status_state_and_reason_comes_back,
                a_name_is_unique_among_the_living,
                one_refusal_in_a_burst_fails_no_other,
                what_is_written_again_is_one,
                pages_are_stable_while_rows_come,
                filters_hold_together,
                the_living_are_buried,
        what_is_kept_is_stopped_and_comes_back,
                an_end_is_final,
                what_is_old_is_purged,
                what_is_too_much_is_purged,
                tenants_see_their_own_alone,
                names_are_unique_per_tenant,
                keys_and_quotas_come_back,
                answers_are_kept_for_their_tenant,
                every_change_has_its_event,
                events_come_in_pieces_and_go,
                ways_out_are_told_once,
                networks_are_kept_with_their_secrets_sealed,
                events_have_no_gaps_in_a_burst,
                webhooks_come_back_as_far_as_they_came,
                documents_are_found_by_kind_and_owner,
                documents_go_at_their_time_and_with_their_sandbox,
                what_is_kept_about_a_sandbox_goes_with_it,
            }
    };
}

mod documents;
mod events;
mod tenants;
mod webhooks;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use caisson_core::{
    Digest, Execution, ExecutionFilter, ExecutionId, ExecutionStatus, Happened, Image, ImageConfig, Limits, Outcome, Recipe, Sandbox,
    SandboxFilter, SandboxId, SandboxSpec, State, Stop, StopReason, Store, StoreError, StoredImage, StreamTotals, Tenant, TimeLimits,
    Tombstone, TombstoneReason, UserSpec,
};
use futures::future::join_all;
use jiff::Timestamp;

use self::events::all as all_events;
pub(crate) use self::{documents::*, events::*, tenants::*, webhooks::*};

/// A moment `seconds` after some fixed one.
fn at(seconds: i64) -> Timestamp {
    Timestamp::from_microsecond(1_760_000_000_123_456 + seconds * 1_000_000).unwrap()
}

/// Whose everything is where it does not matter.
fn mine() -> Tenant {
    Tenant::default()
}

pub(crate) fn sandbox(seconds: i64) -> Sandbox {
    Sandbox {
        id: SandboxId::random(),
        tenant: mine(),
        name: None,
        state: State::Creating,
        spec: SandboxSpec::default(),
        time_limits: TimeLimits::default(),
        metadata: BTreeMap::new(),
        created_at: at(seconds),
        last_active_at: at(seconds),
        starts: 1,
        stop: None,
        tombstone: None,
    }
}

fn named(name: &str, seconds: i64) -> Sandbox {
    Sandbox { name: Some(name.to_owned()), ..sandbox(seconds) }
}

pub(crate) fn ended(mut sandbox: Sandbox, seconds: i64) -> Sandbox {
    sandbox.state = State::Ended;
    sandbox.tombstone = Some(Tombstone { reason: TombstoneReason::IdleTimeout, message: "idle for 15 min".to_owned(), at: at(seconds) });
    sandbox
}

fn execution(sandbox: &Sandbox, seconds: i64) -> Execution {
    let argv = vec!["sh".to_owned(), "-c".to_owned(), "echo 'ä \" \u{1f980}'".to_owned()];
    Execution {
        id: ExecutionId::random(),
        sandbox: sandbox.id,
        tenant: sandbox.tenant.clone(),
        argv,
        started_at: at(seconds),
        outcome: None,
    }
}

fn outcome() -> Outcome {
    Outcome {
        status: ExecutionStatus::OutOfMemory,
        exit_code: Some(137),
        signal: Some(9),
        message: Some("out_of_memory: limit 256 MiB".to_owned()),
        duration: Duration::from_micros(1_234_567),
        cpu: Duration::from_micros(7),
        peak_memory_bytes: 256 << 20,
        stdout: StreamTotals { total_bytes: 10 << 30, dropped_bytes: 9 << 30 },
        stderr: StreamTotals { total_bytes: 0, dropped_bytes: 0 },
    }
}

fn filter(limit: u32) -> SandboxFilter {
    SandboxFilter { limit, ..SandboxFilter::default() }
}

async fn ids(store: &dyn Store, filter: &SandboxFilter) -> Vec<SandboxId> {
    store.sandboxes(&mine(), filter).await.unwrap().data.iter().map(|s| s.id).collect()
}

pub(crate) async fn every_field_comes_back(store: &dyn Store) {
    let mut made = named("büro \"1\"", 0);
    made.spec = SandboxSpec {
        limits: Limits { memory_bytes: 1 << 40, cpu_millis: 1500, pids: 9, disk_bytes: 3 << 20, disk_inodes: 300, open_files: 33 },
        hostname: "h".to_owned(),
        user: UserSpec { uid: 7, gid: 8, name: "n".to_owned(), home: "/h".to_owned() },
        work_dir: "/w ä".to_owned(),
        env: BTreeMap::from([("A".to_owned(), "x=\"\n\u{1}".to_owned())]),
        recipe: Recipe { template: Some("t".to_owned()), ..Recipe::default() },
        ..SandboxSpec::default()
    };
    made.time_limits = TimeLimits { lifetime: None, idle_timeout: Some(Duration::from_millis(1500)) };
    made.metadata = BTreeMap::from([("k.$[0]\"".to_owned(), "v'".to_owned()), (String::new(), String::new())]);
    store.insert_sandbox(&made).await.unwrap();
    assert_eq!(store.sandbox(&mine(), made.id).await.unwrap(), Some(made.clone()));

    made.state = State::Running;
    made.time_limits = TimeLimits { lifetime: Some(Duration::from_secs(1)), idle_timeout: None };
    made.metadata = BTreeMap::from([("new".to_owned(), "yes".to_owned())]);
    made.last_active_at = at(100);
    store.update_sandbox(&made).await.unwrap();
    assert_eq!(store.sandbox(&mine(), made.id).await.unwrap(), Some(made.clone()));

    let made = ended(made, 200);
    store.update_sandbox(&made).await.unwrap();
    assert_eq!(store.sandbox(&mine(), made.id).await.unwrap(), Some(made.clone()));

    let mut run = execution(&made, 5);
    store.insert_execution(&run).await.unwrap();
    assert_eq!(store.execution(&mine(), run.id).await.unwrap(), Some(run.clone()));
    run.outcome = Some(outcome());
    store.finish_execution(run.id, &outcome()).await.unwrap();
    assert_eq!(store.execution(&mine(), run.id).await.unwrap(), Some(run));

    assert_eq!(store.sandbox(&mine(), SandboxId::random()).await.unwrap(), None);
    assert_eq!(store.execution(&mine(), ExecutionId::random()).await.unwrap(), None);
    store.ping().await.unwrap();
}

pub(crate) async fn an_image_is_recorded_by_its_name_and_id(store: &dyn Store) {
    let (name, id) = ("docker.io/library/alpine:3.20".to_owned(), Digest::from_bytes([7; 32]));
    let mut made = sandbox(0);
    let image = StoredImage { name: name.clone(), id, layers: vec![id], config: ImageConfig::default() };
    made.spec.image = Image::Stored(Arc::new(image));
    store.insert_sandbox(&made).await.unwrap();
    let read = store.sandbox(&mine(), made.id).await.unwrap().unwrap();
    assert_eq!(read.spec.image, Image::Named { name, id: Some(id) });
}

pub(crate) async fn every_status_state_and_reason_comes_back(store: &dyn Store) {
    let home = sandbox(0);
    store.insert_sandbox(&home).await.unwrap();
    for status in ExecutionStatus::ALL.into_iter().filter(|s| *s != ExecutionStatus::Running) {
        let run = execution(&home, 1);
        store.insert_execution(&run).await.unwrap();
        store.finish_execution(run.id, &Outcome { status, ..outcome() }).await.unwrap();
        assert_eq!(store.execution(&mine(), run.id).await.unwrap().unwrap().status(), status);
    }
    for reason in TombstoneReason::ALL {
        let mut gone = ended(sandbox(0), 1);
        gone.tombstone.as_mut().unwrap().reason = reason;
        store.insert_sandbox(&gone).await.unwrap();
        assert_eq!(store.sandbox(&mine(), gone.id).await.unwrap().unwrap().tombstone.unwrap().reason, reason);
    }
    for state in State::ALL {
        let made = Sandbox { state, ..sandbox(0) };
        store.insert_sandbox(&made).await.unwrap();
        assert_eq!(store.sandbox(&mine(), made.id).await.unwrap().unwrap().state, state);
    }
}

pub(crate) async fn a_name_is_unique_among_the_living(store: &dyn Store) {
    let first = named("box", 0);
    store.insert_sandbox(&first).await.unwrap();
    let refused = store.insert_sandbox(&named("box", 1)).await.unwrap_err();
    assert!(matches!(refused, StoreError::NameTaken(id) if id == first.id), "{refused:?}");
    store.insert_sandbox(&named("Box", 1)).await.unwrap();
    store.update_sandbox(&Sandbox { state: State::Stopping, ..first.clone() }).await.unwrap();
    assert!(store.insert_sandbox(&named("box", 2)).await.is_err(), "a stopping sandbox still has its name");
    store.update_sandbox(&ended(first.clone(), 3)).await.unwrap();
    let second = named("box", 4);
    store.insert_sandbox(&second).await.unwrap();
    let found = ids(store, &SandboxFilter { name: Some("box".to_owned()), ..filter(10) }).await;
    assert_eq!(found, [second.id, first.id]);
}

pub(crate) async fn one_refusal_in_a_burst_fails_no_other(store: &dyn Store) {
    let burst: Vec<Sandbox> = (0..300).map(|n| if n % 3 == 0 { named("wanted", n) } else { sandbox(n) }).collect();
    let results = join_all(burst.iter().map(|s| store.insert_sandbox(s))).await;
    let mut winners = 0;
    for (made, result) in burst.iter().zip(results) {
        let stored = store.sandbox(&mine(), made.id).await.unwrap();
        match result {
            Ok(()) => {
                winners += u32::from(made.name.is_some());
                assert_eq!(stored.as_ref(), Some(made));
            }
            Err(error) => {
                assert!(matches!(error, StoreError::NameTaken(_)), "{error:?}");
                assert_eq!(stored, None);
            }
        }
    }
    assert_eq!(winners, 1);
    let stranger = execution(&sandbox(0), 0);
    let known = execution(&burst[1], 0);
    let (refused, written) = tokio::join!(store.insert_execution(&stranger), store.insert_execution(&known));
    assert!(refused.is_err(), "an execution belongs to a sandbox");
    written.unwrap();
    assert!(store.execution(&mine(), known.id).await.unwrap().is_some());
}

pub(crate) async fn pages_are_stable_while_rows_come(store: &dyn Store) {
    // Equal times on purpose: the id decides between them.
    let mut all: Vec<Sandbox> = (0..25).map(|n| sandbox(n / 3)).collect();
    for made in &all {
        store.insert_sandbox(made).await.unwrap();
    }
    all.sort_by_key(|s| std::cmp::Reverse((s.created_at, s.id)));
    let mut seen = Vec::new();
    let mut cursor = None;
    loop {
        let page = store.sandboxes(&mine(), &SandboxFilter { cursor, ..filter(4) }).await.unwrap();
        assert!(page.data.len() <= 4);
        seen.extend(page.data.iter().map(|s| s.id));
        store.insert_sandbox(&sandbox(1000)).await.unwrap();
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, all.iter().map(|s| s.id).collect::<Vec<_>>());
    let exact = store.sandboxes(&mine(), &SandboxFilter { states: vec![State::Creating], ..filter(25 + 7) }).await.unwrap();
    assert_eq!((exact.data.len(), exact.next_cursor), (32, None), "a full last page has no next");
    for foreign in ["", "nonsense", "1.sbx", "'; drop table sandboxes"] {
        let refused = store.sandboxes(&mine(), &SandboxFilter { cursor: Some(foreign.to_owned()), ..filter(4) }).await.unwrap_err();
        assert!(matches!(refused, StoreError::ForeignCursor), "{foreign}: {refused:?}");
    }

    let home = &all[0];
    let runs: Vec<Execution> = (0..7).map(|n| execution(home, n)).collect();
    for run in &runs {
        store.insert_execution(run).await.unwrap();
    }
    store.insert_execution(&execution(&all[1], 3)).await.unwrap();
    let first =
        store.executions(&mine(), &ExecutionFilter { sandbox: home.id, statuses: Vec::new(), limit: 5, cursor: None }).await.unwrap();
    let second = store
        .executions(&mine(), &ExecutionFilter { sandbox: home.id, statuses: Vec::new(), limit: 5, cursor: first.next_cursor })
        .await
        .unwrap();
    assert_eq!(second.next_cursor, None);
    let listed: Vec<ExecutionId> = first.data.iter().chain(&second.data).map(|e| e.id).collect();
    assert_eq!(listed, runs.iter().rev().map(|e| e.id).collect::<Vec<_>>());

    store.finish_execution(runs[3].id, &outcome()).await.unwrap();
    let with = async |statuses: &[ExecutionStatus]| {
        let filter = ExecutionFilter { sandbox: home.id, statuses: statuses.to_vec(), limit: 10, cursor: None };
        store.executions(&mine(), &filter).await.unwrap().data.len()
    };
    assert_eq!(with(&[ExecutionStatus::OutOfMemory]).await, 1);
    assert_eq!(with(&[ExecutionStatus::Running, ExecutionStatus::Lost]).await, 6);
}

pub(crate) async fn filters_hold_together(store: &dyn Store) {
    let pairs = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>();
    let a = Sandbox { metadata: pairs(&[("user", "1"), ("chat.id", "x")]), ..sandbox(0) };
    let b = Sandbox { metadata: pairs(&[("user", "1"), ("chat.id", "y")]), ..sandbox(1) };
    let c = ended(Sandbox { metadata: pairs(&[("user", "2")]), ..sandbox(2) }, 3);
    for made in [&a, &b, &c] {
        store.insert_sandbox(made).await.unwrap();
    }
    let by = |metadata: &[(&str, &str)]| SandboxFilter { metadata: pairs(metadata).into_iter().collect(), ..filter(10) };
    assert_eq!(ids(store, &by(&[("user", "1")])).await, [b.id, a.id]);
    assert_eq!(ids(store, &by(&[("user", "1"), ("chat.id", "x")])).await, [a.id]);
    assert!(ids(store, &by(&[("user", "1' or '1'='1")])).await.is_empty());
    assert!(ids(store, &by(&[("$", "1")])).await.is_empty());
    assert_eq!(ids(store, &SandboxFilter { states: vec![State::Ended, State::Running], ..filter(10) }).await, [c.id]);
    assert_eq!(ids(store, &filter(10)).await, [c.id, b.id, a.id]);
}

pub(crate) async fn the_living_are_buried(store: &dyn Store) {
    let (living, gone) = (named("n", 0), ended(sandbox(1), 2));
    for made in [&living, &gone] {
        store.insert_sandbox(made).await.unwrap();
    }
    let (running, finished) = (execution(&living, 0), execution(&living, 1));
    for run in [&running, &finished] {
        store.insert_execution(run).await.unwrap();
    }
    store.finish_execution(finished.id, &outcome()).await.unwrap();
    let tombstone = Tombstone { reason: TombstoneReason::ServerLost, message: "the server went".to_owned(), at: at(60) };
    assert_eq!(store.bury_the_living(&tombstone, &[]).await.unwrap(), (1, 1));
    assert_eq!(store.bury_the_living(&tombstone, &[]).await.unwrap(), (0, 0));
    let buried = store.sandbox(&mine(), living.id).await.unwrap().unwrap();
    assert_eq!((buried.state, buried.tombstone), (State::Ended, Some(tombstone)));
    assert_eq!(store.sandbox(&mine(), gone.id).await.unwrap(), Some(gone));
    let lost = store.execution(&mine(), running.id).await.unwrap().unwrap().outcome.unwrap();
    assert_eq!(
        (lost.status, lost.message.as_deref(), lost.duration),
        (ExecutionStatus::Lost, Some("the server went"), Duration::from_secs(60))
    );
    assert_eq!(store.execution(&mine(), finished.id).await.unwrap().unwrap().outcome, Some(outcome()));
    store.insert_sandbox(&named("n", 61)).await.unwrap();
}

pub(crate) async fn what_is_kept_is_stopped_and_comes_back(store: &dyn Store) {
    let running = |name, seconds| Sandbox { state: State::Running, ..named(name, seconds) };
    let (kept, other, begun) = (running("kept", 0), running("other", 1), named("begun", 2));
    for made in [&kept, &other, &begun] {
        store.insert_sandbox(made).await.unwrap();
    }
    let run = execution(&kept, 0);
    store.insert_execution(&run).await.unwrap();
    let tombstone = Tombstone { reason: TombstoneReason::ServerLost, message: "the server went".to_owned(), at: at(60) };
    // What was not ready yet has nothing that is worth keeping.
    assert_eq!(store.bury_the_living(&tombstone, &[kept.id, begun.id]).await.unwrap(), (3, 1));
    assert_eq!(store.bury_the_living(&tombstone, &[]).await.unwrap(), (0, 0), "what is stopped stays so");
    let stop = Stop { reason: StopReason::ServerLost, at: at(60) };
    let stopped = Sandbox { state: State::Stopped, stop: Some(stop), ..kept.clone() };
    assert_eq!(store.stopped().await.unwrap(), std::slice::from_ref(&stopped));
    assert_eq!(store.sandbox(&mine(), begun.id).await.unwrap().unwrap().state, State::Ended);
    assert_eq!(store.execution(&mine(), run.id).await.unwrap().unwrap().outcome.unwrap().status, ExecutionStatus::Lost);
    // It holds its name.
    assert!(matches!(store.insert_sandbox(&running("kept", 70)).await, Err(StoreError::NameTaken(id)) if id == kept.id));
    let again = Sandbox { state: State::Running, starts: 2, stop: None, ..kept.clone() };
    for _ in 0..2 {
        store.update_sandbox(&again).await.unwrap();
    }
    assert_eq!(store.sandbox(&mine(), kept.id).await.unwrap(), Some(again.clone()));
    assert!(store.stopped().await.unwrap().is_empty());
    for reason in StopReason::ALL {
        let stopped = Sandbox { stop: Some(Stop { reason, at: at(80) }), state: State::Stopped, ..again.clone() };
        store.update_sandbox(&stopped).await.unwrap();
        assert_eq!(store.stopped().await.unwrap(), [stopped]);
    }
    if store.ledger().is_some() {
        let told: Vec<Happened> = all_events(store).await.into_iter().filter(|e| e.sandbox == kept.id).map(|e| e.what).collect();
        let expect = [
            Happened::Stopped { reason: StopReason::ServerLost },
            Happened::Restarted,
            Happened::Stopped { reason: StopReason::Requested },
        ];
        assert_eq!(told[told.len() - 3..], expect, "{told:?}");
    }
}

pub(crate) async fn an_end_is_final(store: &dyn Store) {
    let living = named("n", 0);
    store.insert_sandbox(&living).await.unwrap();
    let (lost, timed_out) = (execution(&living, 0), execution(&living, 1));
    for run in [&lost, &timed_out] {
        store.insert_execution(run).await.unwrap();
    }
    let first = Outcome { status: ExecutionStatus::TimedOut, ..outcome() };
    store.finish_execution(timed_out.id, &first).await.unwrap();
    let tombstone = Tombstone { reason: TombstoneReason::ServerLost, message: "the server went".to_owned(), at: at(60) };
    assert_eq!(store.bury_the_living(&tombstone, &[]).await.unwrap(), (1, 1));
    let buried = store.sandbox(&mine(), living.id).await.unwrap().unwrap();

    // Whoever comes late: an exit after the time-out, an exit after the burial, a destroyer, and one who thinks that it still runs.
    for run in [&lost, &timed_out] {
        store.finish_execution(run.id, &Outcome { status: ExecutionStatus::Exited, ..outcome() }).await.unwrap();
    }
    store.update_sandbox(&ended(living.clone(), 90)).await.unwrap();
    store.update_sandbox(&Sandbox { state: State::Running, ..living.clone() }).await.unwrap();
    assert_eq!(store.execution(&mine(), timed_out.id).await.unwrap().unwrap().outcome, Some(first));
    assert_eq!(store.execution(&mine(), lost.id).await.unwrap().unwrap().status(), ExecutionStatus::Lost);
    assert_eq!(store.sandbox(&mine(), living.id).await.unwrap(), Some(buried));

    // Many at once: exactly one of them counts, and it goes on counting.
    let raced = execution(&living, 2);
    store.insert_execution(&raced).await.unwrap();
    let ends = [ExecutionStatus::Exited, ExecutionStatus::TimedOut, ExecutionStatus::Killed].map(|status| Outcome { status, ..outcome() });
    join_all(ends.iter().map(|end| store.finish_execution(raced.id, end))).await;
    let winner = store.execution(&mine(), raced.id).await.unwrap();
    join_all(ends.iter().map(|end| store.finish_execution(raced.id, end))).await;
    assert_eq!(store.execution(&mine(), raced.id).await.unwrap(), winner);
}

pub(crate) async fn what_is_old_is_purged(store: &dyn Store) {
    let old: Vec<Sandbox> = (0..1200).map(|n| ended(sandbox(n), n)).collect();
    let (young, living) = (ended(sandbox(0), 5000), sandbox(0));
    let inserts = join_all(old.iter().chain([&young, &living]).map(|s| store.insert_sandbox(s))).await;
    assert!(inserts.iter().all(Result::is_ok));
    let mut gone: Vec<ExecutionId> = Vec::new();
    for made in old.iter().step_by(100) {
        let run = execution(made, 0);
        store.insert_execution(&run).await.unwrap();
        gone.push(run.id);
    }
    let (kept, kept_too) = (execution(&young, 0), execution(&living, 0));
    for run in [&kept, &kept_too] {
        store.insert_execution(run).await.unwrap();
    }
    let mut removed = store.purge(at(5000)).await.unwrap();
    removed.sort();
    gone.sort();
    assert_eq!(removed, gone);
    assert_eq!(ids(store, &filter(10)).await.len(), 2);
    assert!(store.execution(&mine(), gone[0]).await.unwrap().is_none());
    assert!(store.execution(&mine(), kept.id).await.unwrap().is_some());
    assert!(store.execution(&mine(), kept_too.id).await.unwrap().is_some());
    assert!(store.purge(at(5000)).await.unwrap().is_empty());
}

pub(crate) async fn what_is_too_much_is_purged(store: &dyn Store) {
    // More than one batch of ours; of theirs few enough.
    let mut ours: Vec<Sandbox> = (0..700).map(|n| ended(sandbox(0), n / 2)).collect();
    let theirs: Vec<Sandbox> = (0..3).map(|n| Sandbox { tenant: "other".parse().unwrap(), ..ended(sandbox(0), n) }).collect();
    let living = sandbox(0);
    let inserts = join_all(ours.iter().chain(&theirs).chain([&living]).map(|s| store.insert_sandbox(s))).await;
    assert!(inserts.iter().all(Result::is_ok));
    ours.sort_by_key(|s| std::cmp::Reverse((s.tombstone.as_ref().unwrap().at, s.id)));
    let (last_kept, first_gone) = (execution(&ours[9], 0), execution(&ours[10], 0));
    for run in [&last_kept, &first_gone] {
        store.insert_execution(run).await.unwrap();
    }
    assert!(store.purge_beyond(703).await.unwrap().is_empty());
    assert_eq!(ids(store, &filter(1000)).await.len(), 701);
    assert_eq!(store.purge_beyond(10).await.unwrap(), [first_gone.id]);
    let left: std::collections::BTreeSet<SandboxId> = ids(store, &filter(1000)).await.into_iter().collect();
    assert_eq!(left, ours[..10].iter().chain([&living]).map(|s| s.id).collect());
    assert!(store.execution(&mine(), last_kept.id).await.unwrap().is_some());
    assert_eq!(store.sandboxes(&"other".parse().unwrap(), &filter(10)).await.unwrap().data.len(), 3);
    assert!(store.purge_beyond(10).await.unwrap().is_empty());
}

/// Whoever does not know whether it was written writes it again.
pub(crate) async fn what_is_written_again_is_one(store: &dyn Store) {
    let made = named("box", 0);
    for _ in 0..2 {
        store.insert_sandbox(&made).await.unwrap();
    }
    let run = execution(&made, 1);
    for _ in 0..2 {
        store.insert_execution(&run).await.unwrap();
    }
    store.finish_execution(run.id, &outcome()).await.unwrap();
    // One that comes very late does not bring it back to life.
    store.insert_execution(&run).await.unwrap();
    assert_eq!(store.execution(&mine(), run.id).await.unwrap().unwrap().outcome, Some(outcome()));
    store.update_sandbox(&ended(made.clone(), 5)).await.unwrap();
    store.insert_sandbox(&made).await.unwrap();
    assert_eq!(store.sandbox(&mine(), made.id).await.unwrap().unwrap().state, State::Ended);
    assert_eq!(ids(store, &filter(10)).await.len(), 1);
    assert_eq!(all_events(store).await.len(), 4, "each has happened once");
}

/// For tests about opening again what is there.
pub(crate) async fn insert_one(store: &dyn Store) -> SandboxId {
    let made = sandbox(0);
    store.insert_sandbox(&made).await.unwrap();
    made.id
}
