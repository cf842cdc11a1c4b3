//! Tenants, their keys, and that they see nothing of one another.

use caisson_core::{
    ExecutionFilter, KeptAnswer, Key, KeyHash, KeyId, Quotas, Sandbox, SandboxFilter, Scope, Store, StoreError, Tenant, Tombstone,
    TombstoneReason,
};

use super::{at, ended, execution, filter, mine, named, sandbox};

fn other() -> Tenant {
    "other".parse().unwrap()
}

fn key(tenant: &Tenant, fill: u8) -> Key {
    Key {
        id: KeyId::random(),
        hash: KeyHash([fill; 32]),
        tenant: tenant.clone(),
        scope: Scope::Run,
        note: "for the 'robots'".to_owned(),
        created_at: at(i64::from(fill)),
        expires_at: fill.is_multiple_of(2).then(|| at(1000)),
    }
}

pub(crate) async fn tenants_see_their_own_alone(store: &dyn Store) {
    let home = sandbox(0);
    let theirs = Sandbox { tenant: other(), ..sandbox(1) };
    for made in [&home, &theirs] {
        store.insert_sandbox(made).await.unwrap();
    }
    let (run, their_run) = (execution(&home, 0), execution(&theirs, 1));
    for started in [&run, &their_run] {
        store.insert_execution(started).await.unwrap();
    }
    assert_eq!(store.sandbox(&other(), theirs.id).await.unwrap(), Some(theirs.clone()));
    assert_eq!(store.execution(&other(), their_run.id).await.unwrap(), Some(their_run.clone()));
    assert_eq!(store.sandbox(&mine(), theirs.id).await.unwrap(), None);
    assert_eq!(store.execution(&mine(), their_run.id).await.unwrap(), None);
    for (tenant, expect) in [(mine(), home.id), (other(), theirs.id)] {
        let page = store.sandboxes(&tenant, &filter(10)).await.unwrap();
        assert_eq!(page.data.iter().map(|s| s.id).collect::<Vec<_>>(), [expect]);
    }
    let of_theirs = ExecutionFilter { sandbox: theirs.id, statuses: Vec::new(), limit: 10, cursor: None };
    assert_eq!(store.executions(&mine(), &of_theirs).await.unwrap().data, []);
    assert_eq!(store.executions(&other(), &of_theirs).await.unwrap().data, [their_run]);
    let tombstone = Tombstone { reason: TombstoneReason::ServerLost, message: "the server went".to_owned(), at: at(60) };
    assert_eq!(store.bury_the_living(&tombstone, &[]).await.unwrap(), (2, 2), "a start buries everybody's");
}

pub(crate) async fn names_are_unique_per_tenant(store: &dyn Store) {
    let first = named("box", 0);
    store.insert_sandbox(&first).await.unwrap();
    let theirs = Sandbox { tenant: other(), ..named("box", 1) };
    store.insert_sandbox(&theirs).await.unwrap();
    let refused = store.insert_sandbox(&Sandbox { tenant: other(), ..named("box", 2) }).await.unwrap_err();
    assert!(matches!(refused, StoreError::NameTaken(id) if id == theirs.id), "{refused:?}");
    store.update_sandbox(&ended(theirs, 3)).await.unwrap();
    assert!(store.insert_sandbox(&named("box", 4)).await.is_err(), "the other's end frees nothing of ours");
    let by_name = SandboxFilter { name: Some("box".to_owned()), ..filter(10) };
    assert_eq!(store.sandboxes(&mine(), &by_name).await.unwrap().data, [first]);
}

pub(crate) async fn keys_and_quotas_come_back(store: &dyn Store) {
    let store = store.ledger().expect("it is a server's");
    assert_eq!(store.tenants().await.unwrap(), [(mine(), Quotas::default())], "there is one from the beginning");
    let (first, second) = (key(&other(), 2), key(&mine(), 3));
    for made in [&first, &second] {
        store.insert_key(made).await.unwrap();
    }
    store.insert_key(&first).await.unwrap();
    assert!(store.insert_key(&Key { id: KeyId::random(), ..first.clone() }).await.is_err(), "no key is there twice");
    let mut keys = store.keys().await.unwrap();
    keys.sort_by_key(|key| key.created_at);
    for (found, made) in keys.iter().zip([&first, &second]) {
        assert_eq!((found.id, found.hash.0, &found.tenant, found.scope), (made.id, made.hash.0, &made.tenant, made.scope));
        assert_eq!((&found.note, found.created_at, found.expires_at), (&made.note, made.created_at, made.expires_at));
    }
    assert_eq!(keys.len(), 2);

    let quotas = Quotas {
        sandboxes: Some(0),
        executions_per_minute: None,
        memory_bytes: Some(Quotas::MAX),
        disk_bytes: Some(1),
        workspace_bytes: Some(2),
    };
    store.save_tenant(&other(), &quotas).await.unwrap();
    store.save_tenant(&"third".parse().unwrap(), &quotas).await.unwrap();
    let mut tenants = store.tenants().await.unwrap();
    tenants.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(tenants, [(mine(), Quotas::default()), (other(), quotas), ("third".parse().unwrap(), quotas)]);

    assert!(store.remove_key(first.id).await.unwrap());
    assert!(!store.remove_key(first.id).await.unwrap());
    assert_eq!(store.keys().await.unwrap().len(), 1);
    assert_eq!(store.tenants().await.unwrap().len(), 3, "a tenant without keys is still there");
}

pub(crate) async fn answers_are_kept_for_their_tenant(store: &dyn Store) {
    let ledger = store.ledger().unwrap();
    let answer = |fill: u8| KeptAnswer { fingerprint: [fill; 32], status: 201, body: vec![fill; 100_000] };
    assert_eq!(ledger.kept_answer(&mine(), "k").await.unwrap(), None);
    ledger.keep_answer(&mine(), "k", &answer(1), at(1)).await.unwrap();
    ledger.keep_answer(&other(), "k", &answer(2), at(2)).await.unwrap();
    ledger.keep_answer(&mine(), "k", &answer(3), at(3)).await.unwrap();
    assert_eq!(ledger.kept_answer(&mine(), "k").await.unwrap(), Some(answer(1)), "the first one stays");
    assert_eq!(ledger.kept_answer(&other(), "k").await.unwrap(), Some(answer(2)));
    assert_eq!(ledger.kept_answer(&mine(), "K").await.unwrap(), None);
    ledger.forget_answers(at(2)).await.unwrap();
    assert_eq!(ledger.kept_answer(&mine(), "k").await.unwrap(), None);
    assert_eq!(ledger.kept_answer(&other(), "k").await.unwrap(), Some(answer(2)));
}
