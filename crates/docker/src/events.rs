//! What the daemon tells of our containers, by one stream of events for all of them; and what it means when it tells nothing any more.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bollard::{models::EventMessage, query_parameters::EventsOptionsBuilder};
use futures::StreamExt;
use tokio::sync::{Notify, watch};

use crate::{container, daemon::Daemon, places::Mark};

/// How long after one look for a daemon that is gone comes the next.
const REST: Duration = Duration::from_secs(1);
/// How often it is tried to take away what the daemon had when it came back.
const TRIES: usize = 60;
/// Events that are known again.
const REMEMBERED: usize = 1024;

/// What is known of a container.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// How often the kernel has killed in it for want of memory.
    pub(crate) oom_kills: u64,
    pub(crate) end: Option<End>,
    /// Whether the daemon has it no more.
    pub(crate) is_removed: bool,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    Exited(i64),
    /// Nobody saw it end.
    Vanished,
    /// The daemon is gone, and nobody knows what is with its containers.
    Lost,
}

/// All containers, by their ids.
#[derive(Debug, Default)]
pub(crate) struct Watched(Mutex<HashMap<String, watch::Sender<Seen>>>, Notify);

impl Watched {
    /// Begins to keep what is told of a container.
    pub(crate) fn add(&self, id: &str) -> watch::Receiver<Seen> {
        let (sender, receiver) = watch::channel(Seen::default());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), sender);
        receiver
    }

    /// A call had no answer, and may be carried out all the same: what comes of it is to be taken away.
    pub(crate) fn is_unsure(&self) {
        self.1.notify_one();
    }

    pub(crate) fn forget(&self, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    fn note(&self, id: &str, change: impl FnOnce(&mut Seen)) {
        if let Some(sender) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(id) {
            sender.send_modify(change);
        }
    }

    fn hear(&self, event: &EventMessage) {
        let Some(actor) = &event.actor else { return };
        let Some(id) = actor.id.as_deref() else { return };
        let attribute = |name: &str| actor.attributes.as_ref()?.get(name);
        match event.action.as_deref() {
            Some("oom") => self.note(id, |seen| seen.oom_kills += 1),
            Some("die") => {
                let code = attribute("exitCode").and_then(|code| code.parse().ok());
                self.note(id, |seen| seen.end = Some(code.map_or(End::Vanished, End::Exited)));
            }
            Some("destroy") => self.note(id, |seen| {
                seen.end.get_or_insert(End::Vanished);
                seen.is_removed = true;
            }),
            _ => {}
        }
    }

    fn ids(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Those of these that are not among the living have ended so.
    fn end_all_but(&self, these: &[String], living: &[String], end: &End) {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, sender) in table.iter().filter(|(id, _)| these.contains(id) && !living.contains(id)) {
            sender.send_modify(|seen| {
                seen.end.get_or_insert_with(|| end.clone());
                seen.is_removed = true;
            });
        }
    }

    fn has(&self, id: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(id)
    }
}

/// Listens for as long as the server lives. Nothing is missed: a daemon keeps events for a while, and nothing has this mark before.
pub(crate) async fn listen(daemon: Daemon, mark: Arc<Mark>, watched: Arc<Watched>) {
    let mut last = 0;
    let mut heard = VecDeque::new();
    let away = Arc::new(tokio::sync::Mutex::new(()));
    loop {
        let mut filter = mark.filter();
        filter.insert("type".to_owned(), vec!["container".to_owned()]);
        filter.insert("event".to_owned(), ["oom", "die", "destroy"].map(str::to_owned).to_vec());
        let since = format!("{}.{:09}", last / 1_000_000_000, last % 1_000_000_000);
        let mut events = daemon.docker.events(Some(EventsOptionsBuilder::new().since(&since).filters(&filter).build()));
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = watched.1.notified() => {
                    spawn_take_away(&daemon, &mark, &watched, &away);
                    continue;
                }
            };
            let event = match event {
                Some(Ok(event)) => event,
                Some(Err(error)) => {
                    tracing::debug!(%error, "The Docker daemon tells no more events");
                    break;
                }
                None => break,
            };
            let time = event.time_nano.unwrap_or(0);
            last = last.max(time);
            // What was last heard comes again, and not all come in the order of their times.
            let this = (time, event.action.clone(), event.actor.as_ref().and_then(|actor| actor.id.clone()));
            if heard.contains(&this) {
                continue;
            }
            heard.push_back(this);
            if heard.len() > REMEMBERED {
                heard.pop_front();
            }
            watched.hear(&event);
        }
        if !daemon.answers().await {
            tracing::error!("The Docker daemon does not answer any more ({}); its sandboxes are lost", daemon.endpoint);
            watched.end_all_but(&watched.ids(), &[], &End::Lost);
            while !daemon.answers().await {
                tokio::time::sleep(REST).await;
            }
            tracing::info!("The Docker daemon answers again ({})", daemon.endpoint);
        }
        // What ended while nobody listened, and what nobody wants any more.
        let known = watched.ids();
        if let Ok(there) = mark.containers(&daemon).await {
            watched.end_all_but(&known, &there, &End::Vanished);
            spawn_take_away(&daemon, &mark, &watched, &away);
        }
        tokio::time::sleep(REST / 10).await;
    }
}

/// Takes away what nobody wants, as soon as the daemon answers; once at a time.
fn spawn_take_away(daemon: &Daemon, mark: &Arc<Mark>, watched: &Arc<Watched>, away: &Arc<tokio::sync::Mutex<()>>) {
    let Ok(turn) = Arc::clone(away).try_lock_owned() else { return };
    let (daemon, mark, watched) = (daemon.clone(), Arc::clone(mark), Arc::clone(watched));
    tokio::spawn(async move {
        let _turn = turn;
        while !daemon.answers().await {
            tokio::time::sleep(REST).await;
        }
        // What was asked for before is done by then.
        tokio::time::sleep(REST).await;
        if let Ok(there) = mark.containers(&daemon).await {
            take_away(&daemon, &mark, &watched, there).await;
        }
    });
}

/// Whatever the daemon does with them at the same time.
async fn take_away(daemon: &Daemon, mark: &Mark, watched: &Watched, mut unwanted: Vec<String>) {
    for _ in 0..TRIES {
        let Ok(there) = mark.containers(daemon).await else { return };
        // One that was just made is about to be known.
        unwanted.retain(|id| there.contains(id) && !watched.has(id));
        if unwanted.is_empty() {
            return;
        }
        tokio::time::sleep(REST).await;
        for id in unwanted.iter().filter(|id| !watched.has(id)) {
            if let Err(failed) = container::remove(daemon, id).await {
                tracing::debug!("A container is not gone yet: {}", failed.text());
            }
        }
    }
    tracing::error!("{} containers are left to the next start", unwanted.len());
}

#[cfg(test)]
mod tests {
    use bollard::models::EventActor;

    use super::*;

    fn event(id: &str, action: &str, code: Option<&str>) -> EventMessage {
        let attributes = code.map(|code| HashMap::from([("exitCode".to_owned(), code.to_owned())]));
        let actor = Some(EventActor { id: Some(id.to_owned()), attributes });
        EventMessage { action: Some(action.to_owned()), actor, ..EventMessage::default() }
    }

    #[test]
    fn each_container_has_what_is_told_of_it() {
        let watched = Watched::default();
        let (one, two) = (watched.add("1"), watched.add("2"));
        for event in [event("1", "oom", None), event("1", "die", Some("137")), event("3", "die", Some("1")), event("1", "destroy", None)] {
            watched.hear(&event);
        }
        let seen = one.borrow().clone();
        assert_eq!((seen.oom_kills, seen.end, seen.is_removed), (1, Some(End::Exited(137)), true));
        assert_eq!(two.borrow().end, None);
        watched.end_all_but(&watched.ids(), &["2".to_owned()], &End::Lost);
        assert_eq!(two.borrow().end, None);
        watched.end_all_but(&watched.ids(), &[], &End::Lost);
        assert_eq!(two.borrow().end, Some(End::Lost));
        assert_eq!(one.borrow().end, Some(End::Exited(137)));
    }
}
