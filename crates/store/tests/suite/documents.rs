//! What dialects keep.

use caisson_core::{Document, SandboxId, Store};

use super::{at, ended, mine, sandbox};

fn document(owner: &str, id: &str, body: &str) -> Document {
    Document { kind: "test.thing".to_owned(), owner: owner.to_owned(), id: id.to_owned(), body: body.to_owned(), ..Document::default() }
}

pub(crate) async fn documents_are_found_by_kind_and_owner(store: &dyn Store) {
    let ledger = store.ledger().unwrap();
    let (b, a, theirs) = (document("me", "b", "{}"), document("me", "a", "{\"x\":'1'}"), document("them", "a", "[]"));
    for made in [&b, &a, &theirs] {
        assert!(ledger.insert_document(made).await.unwrap());
    }
    assert!(!ledger.insert_document(&document("me", "a", "other")).await.unwrap(), "the first stays");
    assert_eq!(ledger.documents("test.thing", "me").await.unwrap(), [b.clone(), a.clone()], "the oldest first");
    assert_eq!(ledger.document("test.thing", "them", "a").await.unwrap(), Some(theirs.clone()));
    assert_eq!(ledger.document("test.thing", "them", "b").await.unwrap(), None);
    assert!(ledger.documents("test.other", "me").await.unwrap().is_empty());
    let changed = document("me", "a", "2");
    assert!(ledger.replace_document(&changed).await.unwrap());
    assert!(!ledger.replace_document(&document("them", "b", "2")).await.unwrap(), "there is none");
    assert_eq!(ledger.documents("test.thing", "me").await.unwrap(), [b, changed]);
    assert!(!ledger.remove_document("test.thing", "them", "b").await.unwrap());
    assert!(ledger.remove_document("test.thing", "me", "a").await.unwrap());
    assert!(!ledger.remove_document("test.thing", "me", "a").await.unwrap());
    assert_eq!(ledger.documents("test.thing", "them").await.unwrap(), [theirs]);
}

pub(crate) async fn what_is_kept_about_a_sandbox_goes_with_it(store: &dyn Store) {
    let ledger = store.ledger().unwrap();
    let (old, young) = (ended(sandbox(0), 10), sandbox(20));
    for made in [&old, &young] {
        store.insert_sandbox(made).await.unwrap();
        ledger.insert_document(&document(made.id.as_str(), "x", "1")).await.unwrap();
    }
    assert_eq!(ledger.owner(old.id).await.unwrap(), Some(mine()));
    assert_eq!(ledger.owner(SandboxId::random()).await.unwrap(), None);
    store.purge(at(15)).await.unwrap();
    assert!(ledger.documents("test.thing", old.id.as_str()).await.unwrap().is_empty());
    assert_eq!(ledger.documents("test.thing", young.id.as_str()).await.unwrap().len(), 1);
    assert_eq!(ledger.owner(old.id).await.unwrap(), None);
}

pub(crate) async fn documents_go_at_their_time_and_with_their_sandbox(store: &dyn Store) {
    let ledger = store.ledger().unwrap();
    let (old, young) = (ended(sandbox(0), 10), sandbox(20));
    let with = |id: &str, until, sandbox: Option<&caisson_core::Sandbox>| Document {
        until,
        sandbox: sandbox.map(|sandbox| sandbox.id),
        ..document("me", id, "1")
    };
    let (stays, early, of_old) = (with("stays", None, None), with("early", Some(at(5)), None), with("of old", None, None));
    let of_young = with("of young", Some(at(30)), Some(&young));
    for made in [&old, &young] {
        store.insert_sandbox(made).await.unwrap();
    }
    for made in [&stays, &early, &of_old, &of_young] {
        assert!(ledger.insert_document(made).await.unwrap());
    }
    // What is said later counts.
    let of_old = with("of old", Some(at(30)), Some(&old));
    assert!(ledger.replace_document(&of_old).await.unwrap());
    let left = async || ledger.documents("test.thing", "me").await.unwrap();
    assert_eq!(left().await, [stays.clone(), early, of_old.clone(), of_young.clone()]);
    ledger.forget_documents(at(6)).await.unwrap();
    assert_eq!(left().await, [stays.clone(), of_old, of_young.clone()]);
    store.purge(at(15)).await.unwrap();
    assert_eq!(left().await, [stays.clone(), of_young]);
    ledger.forget_documents(at(31)).await.unwrap();
    assert_eq!(left().await, [stays]);
}
