//! Webhooks, and how far they have come.

use caisson_core::{Delivery, EventKind, FailedAttempt, Store, Tenant, Webhook, WebhookId, WebhookSecret};

use super::{at, mine, sandbox};

fn webhook(tenant: &Tenant, seconds: i64) -> Webhook {
    Webhook {
        id: WebhookId::random(),
        tenant: tenant.clone(),
        url: "https://example.com/'hook'?a=b".to_owned(),
        secret: WebhookSecret([7; WebhookSecret::BYTES]),
        kinds: vec![EventKind::SandboxEnded, EventKind::ExecutionEnded],
        description: "for \"robots\"".to_owned(),
        created_at: at(seconds),
        delivery: Delivery { until: 3, ..Delivery::default() },
    }
}

pub(crate) async fn webhooks_come_back_as_far_as_they_came(store: &dyn Store) {
    let ledger = store.ledger().unwrap();
    let other: Tenant = "other".parse().unwrap();
    let first = webhook(&mine(), 1);
    let mut second = Webhook { kinds: Vec::new(), ..webhook(&mine(), 2) };
    let theirs = webhook(&other, 3);
    for made in [&second, &theirs, &first] {
        ledger.insert_webhook(made).await.unwrap();
    }
    ledger.insert_webhook(&Webhook { delivery: Delivery::default(), ..first.clone() }).await.unwrap();
    assert_eq!(ledger.webhooks(&mine()).await.unwrap(), [first.clone(), second.clone()]);
    assert_eq!(ledger.webhooks(&other).await.unwrap(), std::slice::from_ref(&theirs));
    assert_eq!(ledger.every_webhook().await.unwrap().len(), 3);

    let mut written = ledger.written();
    written.borrow_and_update();
    second.delivery = Delivery {
        until: 9,
        last_event: Some(8),
        last_success_at: Some(at(10)),
        failures: 4,
        last_failure: Some(FailedAttempt { at: at(11), reason: "answered with 500".to_owned() }),
        next_attempt_at: Some(at(12)),
        missed: 2,
        disabled: true,
    };
    ledger.save_delivery(second.id, &second.delivery).await.unwrap();
    assert!(!written.has_changed().unwrap(), "it is nothing that events tell of");
    assert_eq!(ledger.webhooks(&mine()).await.unwrap(), [first.clone(), second]);
    store.insert_sandbox(&sandbox(0)).await.unwrap();
    assert!(written.has_changed().unwrap());

    assert!(!ledger.remove_webhook(&other, first.id).await.unwrap(), "it is not theirs");
    assert!(ledger.remove_webhook(&mine(), first.id).await.unwrap());
    assert!(!ledger.remove_webhook(&mine(), first.id).await.unwrap());
    ledger.save_delivery(first.id, &Delivery::default()).await.unwrap();
    assert_eq!(ledger.every_webhook().await.unwrap().len(), 2, "what was removed does not come back");
}
