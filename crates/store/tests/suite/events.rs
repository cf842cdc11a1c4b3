//! Events: one for each change, none without, numbered for each tenant.

use caisson_core::{
    EgressLimits, EgressTotals, EventFilter, EventKind, ExecutionStatus, Happened, Intercept, LifecycleEvent, Network, RequestRule, Rules,
    Sandbox, SandboxId, Secret, SecretValue, Store, StoreError, TimeLimits, Tombstone, TombstoneReason,
};

use super::{at, ended, execution, mine, outcome, sandbox};

fn after(number: u64, limit: u32) -> EventFilter {
    EventFilter { after: number, limit, ..EventFilter::default() }
}

pub(super) async fn all(store: &dyn Store) -> Vec<LifecycleEvent> {
    store.ledger().unwrap().events(&mine(), &after(0, 1000)).await.unwrap().data
}

pub(crate) async fn every_change_has_its_event(store: &dyn Store) {
    let made = Sandbox { name: Some("box".to_owned()), ..sandbox(0) };
    let (first, second) = (execution(&made, 1), execution(&made, 2));
    store.insert_sandbox(&made).await.unwrap();
    store.insert_sandbox(&Sandbox { tenant: "other".parse().unwrap(), ..sandbox(1) }).await.unwrap();
    store.insert_execution(&first).await.unwrap();
    store.insert_execution(&second).await.unwrap();
    let done = outcome();
    store.finish_execution(first.id, &done).await.unwrap();
    // Neither of these changes anything that is told.
    store.finish_execution(first.id, &done).await.unwrap();
    store.update_sandbox(&Sandbox { last_active_at: at(99), ..made.clone() }).await.unwrap();
    let longer = Sandbox { time_limits: TimeLimits { lifetime: None, ..made.time_limits }, ..made.clone() };
    store.update_sandbox(&longer).await.unwrap();
    let tombstone = Tombstone { reason: TombstoneReason::ServerLost, message: "gone".to_owned(), at: at(5) };
    store.bury_the_living(&tombstone, &[]).await.unwrap();
    store.update_sandbox(&ended(made.clone(), 6)).await.unwrap();

    let told = all(store).await;
    assert_eq!(told.iter().map(|event| event.number).collect::<Vec<_>>(), (1..=told.len() as u64).collect::<Vec<_>>());
    assert!(told.iter().all(|event| event.sandbox == made.id));
    let what: Vec<Happened> = told.into_iter().map(|event| event.what).collect();
    let lost = Happened::Finished { execution: second.id, status: ExecutionStatus::Lost, exit_code: None, signal: None };
    let over = Happened::Ended { reason: TombstoneReason::ServerLost, message: "gone".to_owned() };
    assert_eq!(
        what[..5],
        [
            Happened::Created { name: Some("box".to_owned()) },
            Happened::Started { execution: first.id },
            Happened::Started { execution: second.id },
            Happened::Finished { execution: first.id, status: done.status, exit_code: done.exit_code, signal: done.signal },
            Happened::Updated,
        ]
    );
    assert!(what.len() == 7 && what.contains(&lost) && what.contains(&over), "{what:?}");
}

pub(crate) async fn events_come_in_pieces_and_go(store: &dyn Store) {
    let ledger = store.ledger().unwrap();
    let mut written = ledger.written();
    written.borrow_and_update();
    let made: Vec<Sandbox> = (0..5).map(sandbox).collect();
    for sandbox in &made {
        store.insert_sandbox(sandbox).await.unwrap();
    }
    assert!(written.has_changed().unwrap(), "whoever waits is woken");
    let page = ledger.events(&mine(), &after(1, 2)).await.unwrap();
    assert_eq!((page.data.iter().map(|e| e.number).collect::<Vec<_>>(), page.until, page.kept_from), (vec![2, 3], 3, 1));
    let rest = ledger.events(&mine(), &after(3, 10)).await.unwrap();
    assert_eq!((rest.data.len(), rest.until), (2, 5));
    // A choice that finds nothing says how far it has looked.
    let none = EventFilter { kinds: vec![EventKind::SandboxEnded], ..after(0, 10) };
    let none = ledger.events(&mine(), &none).await.unwrap();
    assert_eq!((none.data.len(), none.until), (0, 5));
    let one = EventFilter { sandbox: Some(made[3].id), kinds: vec![EventKind::SandboxCreated], ..after(0, 10) };
    assert_eq!(ledger.events(&mine(), &one).await.unwrap().data[0].number, 4);
    let other = ledger.events(&"other".parse().unwrap(), &after(0, 10)).await.unwrap();
    assert_eq!((other.data.len(), other.until, other.kept_from), (0, 0, 1));
    for (tenant, number) in [(mine(), 6), (mine(), u64::MAX), ("other".parse().unwrap(), 1)] {
        let ahead = ledger.events(&tenant, &after(number, 10)).await;
        assert!(matches!(ahead, Err(StoreError::ForeignCursor)), "{number} was not handed out: {ahead:?}");
    }

    ledger.forget_events(jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_secs(1)).unwrap()).await.unwrap();
    let gone = ledger.events(&mine(), &after(0, 10)).await.unwrap();
    assert_eq!((gone.data.len(), gone.until, gone.kept_from), (0, 5, 6), "numbers go on where they were");
    store.insert_sandbox(&sandbox(9)).await.unwrap();
    let next = ledger.events(&mine(), &after(5, 10)).await.unwrap();
    assert_eq!((next.data[0].number, next.kept_from), (6, 6));
}

pub(crate) async fn events_have_no_gaps_in_a_burst(store: &dyn Store) {
    let made: Vec<Sandbox> = (0..60).map(sandbox).collect();
    let writing = futures::future::join_all(made.iter().map(async |sandbox| {
        store.insert_sandbox(sandbox).await.unwrap();
        store.update_sandbox(&ended(sandbox.clone(), 1)).await.unwrap();
    }));
    // Whoever follows sees every number in its order: what is there later never stands before what was there.
    let following = async {
        let mut seen = Vec::new();
        while seen.len() < 2 * made.len() {
            let page = store.ledger().unwrap().events(&mine(), &after(seen.len() as u64, 1000)).await.unwrap();
            seen.extend(page.data.iter().map(|event| event.number));
        }
        seen
    };
    let (_, seen) = tokio::join!(writing, following);
    assert_eq!(seen, (1..=2 * made.len() as u64).collect::<Vec<_>>());
}

pub(crate) async fn ways_out_are_told_once(store: &dyn Store) {
    let ledger = store.ledger().unwrap();
    let made = sandbox(1);
    store.insert_sandbox(&made).await.unwrap();
    let refused = |destination: &str| Happened::Refused {
        destination: destination.to_owned(),
        reason: "denied".to_owned(),
        message: "rule `deny x`".to_owned(),
    };
    let egress = EgressTotals { allowed: 1, refused: 2, bytes_out: 3, bytes_in: u64::from(u32::MAX) * 5 };
    let summary = |start| Happened::Summary { start, egress };
    let mut written = ledger.written();
    written.borrow_and_update();
    for what in [refused("a:443"), refused("a:443"), refused("b"), summary(1), summary(1), summary(2)] {
        ledger.tell(&made.tenant, made.id, &what).await.unwrap();
    }
    assert!(written.has_changed().unwrap());
    ledger.tell(&made.tenant, made.id, &Happened::Updated).await.unwrap();
    let what: Vec<Happened> = all(store).await.into_iter().skip(1).map(|event| event.what).collect();
    assert_eq!(what, [refused("a:443"), refused("b"), summary(1), summary(2)]);
}

pub(crate) async fn networks_are_kept_with_their_secrets_sealed(store: &dyn Store) {
    let rule = |host: &str, methods: &[String], path: Option<&str>, secret: Option<&str>| {
        RequestRule::read(host, methods, path.map(str::to_owned), secret.map(str::to_owned)).unwrap()
    };
    let secret = |value| Secret { header: "Authorization".to_owned(), value };
    let network = "allow:a.b:8080,10.0.0.0/8;deny:c.d".parse::<Network>().unwrap();
    let network = network.with(|rules| {
        rules.requests = vec![rule("*.e.f", &["GET".to_owned()], Some("/x"), Some("s")), rule("g.h:8443", &[], None, None)];
        rules.intercept = Intercept::All;
        rules.limits = EgressLimits { max_bytes: Some(5), bytes_per_second: Some(5000) };
        rules.secrets = [("s".to_owned(), secret(SecretValue::Sealed("sealed".to_owned())))].into();
        rules.refusal = Some("no\n".to_owned());
    });
    let mut made = sandbox(1);
    for network in [network.unwrap(), Network::Public, "packages".parse().unwrap(), Network::None] {
        made = Sandbox { id: SandboxId::random(), ..made };
        made.spec.network = network;
        store.insert_sandbox(&made).await.unwrap();
        assert_eq!(store.sandbox(&made.tenant, made.id).await.unwrap().unwrap().spec.network, made.spec.network);
    }
    let given = secret(SecretValue::Given("never-written".to_owned()));
    let rules = |rules: &mut Rules| {
        rules.requests = vec![rule("a.b", &[], None, Some("s"))];
        rules.secrets = [("s".to_owned(), given)].into();
    };
    made = Sandbox { id: SandboxId::random(), ..made };
    made.spec.network = "allow:".parse::<Network>().unwrap().with(rules).unwrap();
    store.insert_sandbox(&made).await.unwrap();
    let read = store.sandbox(&made.tenant, made.id).await.unwrap().unwrap().spec.network;
    assert_eq!(read.as_rules().unwrap().secrets["s"].value, SecretValue::Sealed(String::new()));
}
